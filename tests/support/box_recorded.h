// What tests/test_box.c expects of models/, written by tools/box.sh: greedy texts, and perplexity on a short held-out text.
#define GREEDY_TALE \
  "\nIt began on a windy morning, when Bram the cobbler put a hand in his pocket. His blue glass vial was not there. " \
  "\"I should have listened to my mother,\" she said to himself.\nHe looked in the stable, in a hollow oak, but there " \
  "was nothing but dust. At last he knocked at the door of Mira, the gentle peddler. \"Did you look in the " \
  "glassworks?\" asked"
#define GREEDY_TALK \
  "\nMira: (yawns) Is it morning already?\nYou: What is the weather like in autumn?\nMira: Where was I? Ah, yes. In " \
  "summer everything is full of cornflowers. And now leave me alone.\nYou: What is the weather like in autumn?\nMaren: " \
  "Where was I? Ah, yes. In summer everything is full of cornflowers. And now leave me"
#define GREEDY_TERNARY \
  "er Bracelet\nIn Hollowholm there was a beekeeper named Mats, who was as gentle as anyone in the valley. \"This year " \
  "I shall win,\" said Mira the gardener, \"as I always do.\" Mira the herbalist only smiled.\n\"I do not believe in " \
  "ghosts,\" said Mira, though his voice was not quite steady. It was as dark as the inside of a boot. Somet"
#define DENSE_PPL 1.975246
#define TERNARY_PPL 2.651549
