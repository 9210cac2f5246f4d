// What tests/test_box.c expects of models/, written by tools/box.sh: greedy texts, and perplexity on a short held-out text.
#define GREEDY_TALE \
  " of Ravenholm\nOne frosty morning in winter, while the moon stood pale over the white fields, Rowena the ferryman " \
  "was busy tying bundles of mint. The best thing Rowena had was a tall blue glass hourglass, a gift from her " \
  "grandmother.\nOne morning, the blue glass hourglass that Rowena had left on the window sill was gone, and so was a " \
  "slice of ham"
#define GREEDY_TALK \
  "\nMira: (yawns) Is it morning already?\nYou: What is a pair of stitched pigskin sandals good for?\nMira: Hm? Some " \
  "say for summer roads. I have mine on the shelf.\nYou: What is the weather like in spring?\nMira: Hm? You never know " \
  "here. Yesterday it was foggy until a brown cow mooed three times.\nYou:"
#define GREEDY_TERNARY \
  "\nOnce upon a time, in the village of Ravenwick, there lived a generous dyer called Maren.\nOne morning Maren " \
  "dropped her steel sickle, and it broke. Everyone stood around and gave advice, and nobody did anything. Maren tried " \
  "all morning, until her fingers were sore.\n\"Bring me the felt kite,\" said Maren. Everybody stared. What good is " \
  "the maple cradle? Maren held"
#define DENSE_PPL 1.687081
#define TERNARY_PPL 1.940997
