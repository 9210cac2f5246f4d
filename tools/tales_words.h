// Words of the tales: people and their trades, things, places, animals. Texts are templates (see tales.h): [a|b] is one of them.
#ifndef TALES_WORDS_H
#define TALES_WORDS_H

static const char *const tales_women[] = {
    "Mira",   "Tilda",  "Anwen",  "Brida",  "Isolde", "Maren",  "Hedda",  "Oriel",  "Linnet", "Sable",  "Greta",  "Yara",
    "Nessa",  "Rowena", "Petra",  "Elka",   "Dagny",  "Faye",   "Wilma",  "Ursa",   "Corin",  "Talia",  "Hazel",  "Ivy",
    "Juniper", "Marta", "Olwen",  "Signe",  "Thea",   "Una",    "Vesna",  "Willa",  "Zora",   "Alda",   "Berta",  "Clover",
    "Della",  "Edda",   "Fern",   "Gwen",   "Hilda",  "Inga",   "Jonna",  "Katrin", "Lena",   "Moira",  "Nell",   "Odette",
    "Pia",    "Runa",   "Selma",  "Tamsin", "Ulla",   "Vida",   "Wren",   "Ysolt",  "Agna",   "Bettany", "Celia", "Dorrit",
    "Elspeth", "Frida", "Ginny",  "Hester", "Ilse",   "Jessamy", "Kirsa", "Lorna",  "Mabel",  "Nora",   "Opal",   "Primrose",
    "Rhona",  "Sunniva", "Tova",  "Verity", "Winifred", "Brynja", "Maud", "Agatha"};

static const char *const tales_men[] = {
    "Tomas",  "Bram",   "Osric",  "Halvor", "Piet",   "Garrick", "Emil",  "Jorin",  "Kester", "Aldo",   "Rufus",  "Stellan",
    "Wendel", "Ivo",    "Magnus", "Corwin", "Dunstan", "Egon",  "Finn",   "Gregor", "Hob",    "Ingram", "Jasper", "Knut",
    "Lambert", "Milo",  "Nils",   "Otto",   "Perrin", "Quill",  "Roald",  "Simon",  "Torvald", "Ulric", "Viktor", "Wat",
    "Yorick", "Alaric", "Barnaby", "Caspar", "Dirk",  "Edmund", "Falk",   "Gilbert", "Hugo",  "Isak",   "Jarl",   "Klaus",
    "Ludo",   "Matthias", "Ned",  "Odo",    "Pascal", "Ralf",   "Sven",   "Tobin",  "Urban",  "Valdemar", "Wilfred", "Anselm",
    "Bertil", "Cedric", "Davin",  "Elric",  "Florian", "Gunnar", "Harald", "Jonas",  "Karsten", "Leif",  "Mats",   "Norbert",
    "Oswin",  "Peder",  "Rolf",   "Sigurd", "Tarn",   "Walther", "Arvid", "Birger"};

static const char *const tales_village_heads[] = {
    "Oak",   "Bramble", "Willow", "Stone",  "Fox",   "Heather", "Raven", "Mill",  "Amber", "Thorn", "Elder", "Moss",  "Winter",
    "Lark",  "Hollow",  "Apple",  "Reed",   "Silver", "Birch",  "Wolf",  "Honey", "Cloud", "Barley", "Frost", "Alder", "Copper"};
static const char *const tales_village_tails[] = {"ford", "holm", "wick", "bridge", "dale", "stead", "mere",
                                                  "combe", "well", "ton", "moor", "gate", "field", "brook"};

// A trade: where it is done, what its people are busy with, what they sell, a tool, what sticks to their hands.
typedef struct tales_trade {
  const char *name, *shop, *doing, *goods, *tool, *dust;
} tales_trade;

static const tales_trade tales_trades[] = {
    {"baker", "the bakehouse", "[kneading dough|shaping loaves|watching the oven|glazing buns]",
     "[honey cakes|rye loaves|plum buns|seed bread]", "rolling pin", "flour"},
    {"smith", "the forge", "[hammering a horseshoe|pumping the bellows|filing a hinge|cooling an iron rod]",
     "[nails|horseshoes|door hinges|kettle hooks]", "hammer", "soot"},
    {"miller", "the mill", "[grinding barley|greasing the wheel|filling sacks|sweeping up bran]",
     "[flour|oatmeal|bran|barley meal]", "sack hook", "flour dust"},
    {"weaver", "the weaving room", "[threading the loom|winding wool|weaving a blanket|mending a shuttle]",
     "[blankets|shawls|linen sheets|striped ribbons]", "shuttle", "lint"},
    {"potter", "the pottery", "[turning a bowl|stacking the kiln|mixing glaze|wedging clay]",
     "[jugs|bowls|butter dishes|oil lamps]", "potter's wheel", "clay"},
    {"shepherd", "the sheepfold", "[counting lambs|shearing a ewe|whistling for the dog|mending a hurdle]",
     "[wool|sheep's cheese|fleeces|tallow]", "crook", "wool grease"},
    {"fisher", "the boathouse", "[mending nets|scaling trout|tarring a boat|baiting hooks]",
     "[smoked eels|trout|river perch|dried carp]", "net", "fish scales"},
    {"carpenter", "the workshop", "[planing a plank|sawing a beam|fitting a drawer|carving a chair leg]",
     "[stools|cradles|shutters|spoons]", "saw", "sawdust"},
    {"tailor", "the sewing room", "[hemming a cloak|cutting a pattern|sewing on buttons|patching trousers]",
     "[cloaks|waistcoats|aprons|wedding gowns]", "pair of shears", "thread"},
    {"cobbler", "the cobbler's bench", "[stitching a sole|waxing thread|patching a boot|punching holes in leather]",
     "[boots|sandals|belts|dancing shoes]", "awl", "wax"},
    {"gardener", "the kitchen garden", "[weeding beans|tying up roses|digging a ditch|planting onions]",
     "[cabbages|radishes|rose cuttings|turnips]", "spade", "earth"},
    {"beekeeper", "the beehives", "[smoking a hive|straining honey|pouring wax|catching a swarm]",
     "[honey|candles|mead|wax tapers]", "smoker", "honey"},
    {"herbalist", "the herb room", "[drying sage|crushing seeds|bottling syrup|tying bundles of mint]",
     "[cough syrup|ointment|mint tea|sleeping herbs]", "mortar", "pollen"},
    {"innkeeper", "the inn", "[polishing mugs|stirring soup|rolling a barrel|airing the beds]",
     "[ale|onion soup|cider|mutton pies]", "ladle", "beer foam"},
    {"candlemaker", "the candle shop", "[dipping wicks|melting tallow|trimming candles|scraping moulds]",
     "[candles|night lights|soap|lantern wicks]", "dipping frame", "wax"},
    {"clockmaker", "the clock shop", "[oiling a cogwheel|winding a spring|setting a pendulum|painting a dial]",
     "[clocks|music boxes|sundials|little bells]", "magnifying glass", "oil"},
    {"ferryman", "the ferry landing", "[coiling rope|bailing out the boat|painting an oar|taking a cow across]",
     "[crossings|river news|old rope|driftwood]", "oar", "river mud"},
    {"charcoal burner", "the charcoal clearing", "[stacking logs|covering the kiln|raking ashes|chopping beech wood]",
     "[charcoal|kindling|birch tar|ash for washing]", "rake", "coal dust"},
    {"woodcutter", "the woodpile", "[splitting logs|sharpening an axe|tying faggots|dragging a trunk]",
     "[firewood|fence posts|kindling|bark]", "axe", "bark"},
    {"bookbinder", "the bindery", "[folding paper|sewing pages|stamping leather|boiling glue]",
     "[almanacs|account books|songbooks|maps]", "bone folder", "glue"},
    {"glassblower", "the glass house", "[turning a hot bubble|sweeping up shards|blowing a bottle|feeding the furnace]",
     "[bottles|beads|window panes|lamp glasses]", "blowpipe", "ash"},
    {"basket weaver", "the willow shed", "[soaking willow rods|weaving a creel|trimming a handle|sorting reeds]",
     "[baskets|cradles|fish traps|hats]", "bodkin", "willow sap"},
    {"cheesemaker", "the dairy", "[pressing curds|salting a cheese|skimming cream|churning butter]",
     "[butter|goat cheese|cream|buttermilk]", "skimmer", "whey"},
    {"musician", "the dance floor", "[tuning a fiddle|learning a jig|polishing a flute|writing down a song]",
     "[songs|dance tunes|ballads|lullabies]", "fiddle bow", "rosin"},
    {"teacher", "the schoolroom", "[wiping the slate|sharpening quills|marking sums|reading aloud]",
     "[copybooks|chalk|good advice|ink]", "pointer", "chalk"},
    {"healer", "the sickroom", "[rolling bandages|boiling needles|washing bottles|looking into a sore throat]",
     "[bandages|ointment|drops for sore eyes|willow bark]", "lancet", "camphor"},
    {"mason", "the quarry", "[dressing a block|mixing mortar|measuring a wall|carving a doorstep]",
     "[paving stones|millstones|gateposts|troughs]", "chisel", "stone dust"},
    {"dyer", "the dye yard", "[stirring a vat|hanging up yarn|crushing madder roots|rinsing cloth]",
     "[blue yarn|scarlet cloth|yellow scarves|green thread]", "stirring pole", "blue dye"},
    {"hunter", "the hunting lodge", "[waxing a bowstring|reading tracks|skinning a hare|feathering arrows]",
     "[venison|rabbit skins|pheasants|feathers]", "bow", "pine resin"},
    {"peddler", "the market cross", "[unpacking ribbons|counting needles|loading the donkey|sorting buttons]",
     "[ribbons|needles|tin whistles|pepper]", "pack", "road dust"},
    {"night watchman", "the watchtower", "[trimming the lantern|calling the hours|checking the gates|rattling the keys]",
     "[lantern oil|old stories|safe sleep|warnings]", "lantern", "lamp oil"},
    {"roofer", "the thatching yard", "[bundling straw|nailing shingles|climbing a ladder|patching a roof]",
     "[thatch|shingles|weathercocks|reed mats]", "ladder", "straw"},
    {"cooper", "the cooper's yard", "[bending staves|hooping a barrel|scorching a cask|shaving oak]",
     "[barrels|buckets|washtubs|butter churns]", "mallet", "oak shavings"},
    {"tinker", "the tinker's cart", "[soldering a kettle|straightening spoons|riveting a pan|sharpening scissors]",
     "[kettles|tin cups|sieves|door bells]", "soldering iron", "solder"},
    {"goatherd", "the goat pasture", "[milking goats|untangling a kid from the briars|cutting a whistle|carving a bell collar]",
     "[goat milk|goat hair|bone whistles|salted cheese]", "staff", "thistledown"},
    {"rope maker", "the rope walk", "[twisting hemp|splicing a rope|combing flax|testing a knot]",
     "[ropes|halters|bell pulls|fishing line]", "spindle", "hemp"},
    {"brewer", "the brewhouse", "[stirring the mash|tasting ale|scrubbing a vat|drying hops]",
     "[ale|yeast|small beer|ginger beer]", "mash paddle", "malt"},
    {"toymaker", "the toy shop", "[painting a wooden horse|stringing a puppet|gluing a kite|sanding a spinning top]",
     "[puppets|kites|wooden horses|rattles]", "paintbrush", "red paint"},
    {"letter carrier", "the post house", "[sorting letters|sealing a parcel|feeding the pony|reading an address]",
     "[letters|parcels|news|stamps]", "satchel", "sealing wax"},
    {"apple grower", "the cider orchard", "[picking apples|pruning a branch|propping up a bough|pressing cider]",
     "[apples|cider|apple butter|pear jam]", "fruit picker", "apple juice"},
    {"salt seller", "the salt cellar", "[weighing salt|scraping a pan|filling pouches|counting coins]",
     "[salt|pickled beans|salted fish|spices]", "scales", "salt"},
    {"gravedigger", "the churchyard", "[raking leaves|cutting grass|straightening a stone|planting snowdrops]",
     "[flower bulbs|yew wood|quiet company|headstones]", "shovel", "clay"}};

// What things are made of decides how they look, sound and are found again.
enum { TALES_METAL, TALES_WOOD, TALES_CLOTH, TALES_CLAY, TALES_LEATHER, TALES_GLASS, TALES_STONE, TALES_PAPER, TALES_N_STUFFS };
static const char *const tales_stuff_names[] = {"metal", "wood", "cloth", "clay", "leather", "glass", "stone", "paper"};
static const char *const tales_stuffs[] = {
    "[silver|copper|brass|iron|tin|bronze|pewter|steel|golden]", "[oak|willow|cherry|walnut|birch|ash|maple|pear-wood|yew]",
    "[wool|linen|velvet|silk|cotton|felt]", "[blue|brown|glazed|painted|speckled|earthen]",
    "[leather|calfskin|deerskin|goatskin|pigskin]", "[glass|crystal|green glass|blue glass|amber glass]",
    "[jade|marble|slate|agate|granite|moonstone|jet|quartz]", "[paper|parchment|vellum]"};
static const char *const tales_looks[] = {
    "[small|polished|dented|heavy|bright|old|engraved|thin|round|tarnished|slender]",
    "[carved|crooked|smooth|light|painted|old|plain|knotted|little|well-worn]",
    "[red|blue|yellow|green|striped|soft|faded|warm|grey|purple|crimson|embroidered|checked]",
    "[small|round|cracked|big-bellied|handsome|tall|chipped|plain]",
    "[brown|stitched|scuffed|supple|worn|black|stout|red|patched]",
    "[tiny|clear|round|sparkling|delicate|tall|smoky|fine]",
    "[smooth|carved|little|cold|round|polished|veined|ancient]",
    "[folded|yellowed|painted|crumpled|sealed|thick|secret|torn]"};

typedef struct tales_object {
  const char *noun;
  int stuff;
  int pair;        // two that belong together: "a pair of boots", "they were"
  const char *use; // "for ..."
} tales_object;

static const tales_object tales_objects[] = {
    {"bell", TALES_METAL, 0, "calling the goats home"},       {"ring", TALES_METAL, 0, "remembering a promise"},
    {"key", TALES_METAL, 0, "opening the granary"},           {"lantern", TALES_METAL, 0, "finding the way at night"},
    {"needle", TALES_METAL, 0, "sewing sails"},               {"spoon", TALES_METAL, 0, "tasting soup"},
    {"brooch", TALES_METAL, 0, "pinning a shawl"},            {"whistle", TALES_METAL, 0, "calling the dog"},
    {"thimble", TALES_METAL, 0, "keeping a thumb safe"},      {"kettle", TALES_METAL, 0, "boiling tea"},
    {"compass", TALES_METAL, 0, "crossing the moor"},         {"button", TALES_METAL, 0, "closing a winter coat"},
    {"coin", TALES_METAL, 0, "paying the ferry"},             {"locket", TALES_METAL, 0, "keeping a curl of hair"},
    {"horseshoe", TALES_METAL, 0, "bringing good luck"},      {"candlestick", TALES_METAL, 0, "lighting the stairs"},
    {"trumpet", TALES_METAL, 0, "waking the whole street"},   {"buckle", TALES_METAL, 0, "fastening a belt"},
    {"weathercock", TALES_METAL, 0, "telling the wind"},      {"goblet", TALES_METAL, 0, "drinking to a bride"},
    {"bracelet", TALES_METAL, 0, "dancing at weddings"},      {"sickle", TALES_METAL, 0, "cutting barley"},
    {"scissors", TALES_METAL, 1, "trimming hair"},            {"spurs", TALES_METAL, 1, "riding to market"},
    {"flute", TALES_WOOD, 0, "playing lullabies"},            {"box", TALES_WOOD, 0, "keeping letters"},
    {"spinning top", TALES_WOOD, 0, "passing rainy days"},    {"walking stick", TALES_WOOD, 0, "climbing the hill"},
    {"bowl", TALES_WOOD, 0, "eating porridge"},               {"puppet", TALES_WOOD, 0, "making children laugh"},
    {"comb", TALES_WOOD, 0, "untangling long hair"},          {"chest", TALES_WOOD, 0, "storing winter clothes"},
    {"ladle", TALES_WOOD, 0, "serving stew"},                 {"fiddle", TALES_WOOD, 0, "playing at dances"},
    {"cradle", TALES_WOOD, 0, "rocking a baby to sleep"},     {"bucket", TALES_WOOD, 0, "drawing water"},
    {"drum", TALES_WOOD, 0, "marching in the parade"},        {"toy boat", TALES_WOOD, 0, "sailing on the pond"},
    {"wheel", TALES_WOOD, 0, "carting hay"},                  {"sled", TALES_WOOD, 0, "racing down the slope"},
    {"bow", TALES_WOOD, 0, "hunting hares"},                  {"mask", TALES_WOOD, 0, "scaring winter away"},
    {"clogs", TALES_WOOD, 1, "walking through mud"},          {"skis", TALES_WOOD, 1, "crossing the snow"},
    {"scarf", TALES_CLOTH, 0, "keeping a neck warm"},         {"cloak", TALES_CLOTH, 0, "travelling in the rain"},
    {"ribbon", TALES_CLOTH, 0, "tying up hair"},              {"hat", TALES_CLOTH, 0, "keeping off the sun"},
    {"blanket", TALES_CLOTH, 0, "sleeping under the stars"},  {"flag", TALES_CLOTH, 0, "greeting guests"},
    {"shawl", TALES_CLOTH, 0, "sitting by the window"},       {"doll", TALES_CLOTH, 0, "telling secrets to"},
    {"apron", TALES_CLOTH, 0, "baking pies"},                 {"pillow", TALES_CLOTH, 0, "dreaming well"},
    {"handkerchief", TALES_CLOTH, 0, "waving goodbye"},       {"kite", TALES_CLOTH, 0, "windy afternoons"},
    {"tapestry", TALES_CLOTH, 0, "covering a draughty wall"}, {"hood", TALES_CLOTH, 0, "hiding from hail"},
    {"mittens", TALES_CLOTH, 1, "throwing snowballs"},        {"stockings", TALES_CLOTH, 1, "cold mornings"},
    {"slippers", TALES_CLOTH, 1, "creeping downstairs"},      {"jug", TALES_CLAY, 0, "pouring milk"},
    {"pot", TALES_CLAY, 0, "cooking beans"},                  {"cup", TALES_CLAY, 0, "drinking cider"},
    {"teapot", TALES_CLAY, 0, "long talks"},                  {"vase", TALES_CLAY, 0, "the first flowers of spring"},
    {"oil lamp", TALES_CLAY, 0, "reading in bed"},            {"plate", TALES_CLAY, 0, "serving honey cakes"},
    {"money jar", TALES_CLAY, 0, "saving pennies"},           {"honey pot", TALES_CLAY, 0, "tempting bears"},
    {"crock", TALES_CLAY, 0, "pickling cucumbers"},           {"saddle", TALES_LEATHER, 0, "riding a stubborn pony"},
    {"belt", TALES_LEATHER, 0, "holding up trousers"},        {"purse", TALES_LEATHER, 0, "carrying coins"},
    {"satchel", TALES_LEATHER, 0, "carrying letters"},        {"ball", TALES_LEATHER, 0, "playing on the green"},
    {"collar", TALES_LEATHER, 0, "walking a hound"},          {"tobacco pouch", TALES_LEATHER, 0, "quiet evenings"},
    {"water bag", TALES_LEATHER, 0, "long roads"},            {"whip", TALES_LEATHER, 0, "cracking at flies"},
    {"boots", TALES_LEATHER, 1, "wading through puddles"},    {"gloves", TALES_LEATHER, 1, "handling hot pans"},
    {"sandals", TALES_LEATHER, 1, "summer roads"},            {"bottle", TALES_GLASS, 0, "keeping plum brandy"},
    {"bead", TALES_GLASS, 0, "wearing on a string"},          {"marble", TALES_GLASS, 0, "playing in the dust"},
    {"mirror", TALES_GLASS, 0, "looking behind oneself"},     {"hourglass", TALES_GLASS, 0, "boiling eggs"},
    {"magnifying glass", TALES_GLASS, 0, "reading small print"}, {"prism", TALES_GLASS, 0, "making rainbows"},
    {"vial", TALES_GLASS, 0, "carrying rose oil"},            {"spectacles", TALES_GLASS, 1, "threading needles"},
    {"amulet", TALES_STONE, 0, "keeping bad dreams away"},    {"chess piece", TALES_STONE, 0, "winning at chess"},
    {"pendant", TALES_STONE, 0, "wearing on feast days"},     {"whetstone", TALES_STONE, 0, "sharpening knives"},
    {"mortar", TALES_STONE, 0, "grinding pepper"},            {"figurine", TALES_STONE, 0, "guarding a doorstep"},
    {"egg", TALES_STONE, 0, "fooling hens"},                  {"map", TALES_PAPER, 0, "finding the old road"},
    {"letter", TALES_PAPER, 0, "saying sorry"},               {"songbook", TALES_PAPER, 0, "learning ballads"},
    {"recipe", TALES_PAPER, 0, "baking the harvest cake"},    {"lampshade", TALES_PAPER, 0, "soft light"},
    {"fan", TALES_PAPER, 0, "hot afternoons"},                {"almanac", TALES_PAPER, 0, "guessing the weather"},
    {"picture", TALES_PAPER, 0, "remembering a face"}};

// A place: how one is there, and two spots where something may lie hidden.
typedef struct tales_place {
  const char *name, *at, *spot;
} tales_place;

static const tales_place tales_places[] = {
    {"the mill", "at", "[under the millstone|behind the flour sacks|between the cogs of the wheel]"},
    {"the orchard", "in", "[at the foot of a pear tree|in the long grass|in a basket of windfalls]"},
    {"the well", "by", "[on the mossy rim|behind the bucket|among the wet stones]"},
    {"the churchyard", "in", "[beneath the yew|beside an old headstone|on the wall]"},
    {"the marsh", "in", "[among the reeds|on a tuft of grass|half sunk in the mud]"},
    {"the stable", "in", "[under the straw|in the manger|behind the oat bin]"},
    {"the bridge", "on", "[under the first arch|in a crack of the railing|on a ledge above the water]"},
    {"the river bank", "on", "[beneath a willow root|among the pebbles|in the shallow water]"},
    {"the market", "at", "[under an empty stall|between two crates|in a heap of cabbage leaves]"},
    {"the inn", "at", "[under the long table|behind a barrel|on the mantelpiece]"},
    {"the barn", "in", "[in the hayloft|behind the plough|under a pile of sacks]"},
    {"the hill", "on", "[beside the standing stone|in a rabbit hole|among the heather]"},
    {"the forest", "in", "[in a hollow oak|under a heap of leaves|beside a fallen birch]"},
    {"the pond", "by", "[among the water lilies|on the muddy edge|under the landing stage]"},
    {"the bell tower", "in", "[on the top stair|behind the great bell|in a jackdaw's nest]"},
    {"the bakehouse", "in", "[behind the oven|in the flour bin|under the cooling racks]"},
    {"the forge", "at", "[under the anvil|in the coal heap|behind the bellows]"},
    {"the ferry landing", "at", "[in the bottom of the boat|under a coil of rope|between two planks]"},
    {"the vineyard", "in", "[between the rows|under a broad leaf|in a picker's basket]"},
    {"the crossroads", "at", "[beside the milestone|in the ditch|at the foot of the signpost]"},
    {"the attic", "in", "[in a trunk of old coats|behind the chimney|under a loose board]"},
    {"the cellar", "in", "[behind the cider barrels|on the lowest shelf|in a potato sack]"},
    {"the rose garden", "in", "[under a thorny bush|on the sundial|among fallen petals]"},
    {"the sheepfold", "in", "[under the hurdle|in a tuft of wool|beside the trough]"},
    {"the quarry", "in", "[in a deep crack|behind a block of granite|on a narrow ledge]"},
    {"the watchtower", "in", "[behind the door|on the window sill|in the lamp niche]"},
    {"the schoolhouse", "in", "[under the last bench|behind the slate|in the teacher's desk]"},
    {"the meadow", "in", "[among the buttercups|beside a molehill|under a hay rake]"},
    {"the beehives", "by", "[between two hives|in the lavender|under an upturned basket]"},
    {"the cave", "in", "[behind a curtain of ivy|in a dry corner|on a shelf of rock]"},
    {"the waterfall", "by", "[behind the falling water|on a slippery stone|in a hollow of the rock]"},
    {"the ruined castle", "in", "[in the empty fireplace|under a broken stair|among the nettles]"},
    {"the dance floor", "on", "[under the fiddler's stool|beneath a paper garland|by the lamp post]"},
    {"the dairy", "in", "[behind the churn|under the cheese press|in a bowl of cream]"},
    {"the toll gate", "at", "[behind the barrier|in the toll box|under the keeper's bench]"},
    {"the wheat field", "in", "[in a sheaf|beside the scarecrow|between two furrows]"},
    {"the old oak", "by", "[between its roots|in a knothole|on the lowest branch]"},
    {"the hermit's hut", "at", "[under the straw bed|beside the stove|on a shelf of herbs]"},
    {"the village green", "on", "[under the bench|at the foot of the maypole|in the gutter]"},
    {"the dovecote", "in", "[in an empty nest|under the perch|among the feathers]"},
    {"the glassworks", "in", "[in a crate of bottles|beside the furnace|under a heap of sand]"},
    {"the boathouse", "in", "[under the nets|in the stern of a boat|behind the oars]"}};

// An animal: how it sounds, what it is like, what it does to things.
typedef struct tales_animal {
  const char *noun, *cried, *look, *took;
} tales_animal;

static const tales_animal tales_animals[] = {
    {"magpie", "chattered", "[cheeky|sharp-eyed|glossy]", "snatched"},
    {"goat", "bleated", "[hungry|stubborn|long-bearded]", "nibbled at"},
    {"fox", "barked", "[clever|red|shy]", "dragged off"},
    {"raven", "croaked", "[old|black|solemn]", "flown off with"},
    {"dog", "barked", "[shaggy|brown|muddy]", "buried"},
    {"cat", "mewed", "[striped|fat|three-legged]", "pushed down"},
    {"squirrel", "chirped", "[red|nervous|quick]", "hidden"},
    {"hedgehog", "snuffled", "[round|sleepy|prickly]", "rolled away"},
    {"owl", "hooted", "[white|wise-looking|grumpy]", "carried away"},
    {"donkey", "brayed", "[grey|lazy|patient]", "trodden on"},
    {"goose", "honked", "[proud|noisy|white]", "pulled away"},
    {"otter", "whistled", "[playful|sleek|wet]", "swum off with"},
    {"badger", "grunted", "[broad|grumbling|old]", "dug in"},
    {"jackdaw", "cawed", "[thieving|blue-eyed|bold]", "stolen"},
    {"pig", "squealed", "[pink|curious|spotted]", "rooted up"},
    {"hare", "thumped", "[brown|long-eared|frightened]", "leapt over"},
    {"mouse", "squeaked", "[tiny|brave|grey]", "gnawed at"},
    {"pony", "whinnied", "[shaggy|fat|gentle]", "kicked aside"},
    {"hen", "clucked", "[speckled|fussy|brown]", "sat down on"},
    {"heron", "shrieked", "[tall|grey|stiff-legged]", "picked up"},
    {"kid", "bleated", "[white|spotted|cheerful]", "jumped over"},
    {"puppy", "yapped", "[floppy-eared|yellow|clumsy]", "run off with"},
    {"weasel", "hissed", "[thin|quick|bold]", "slipped away with"},
    {"cow", "mooed", "[brown|dreamy|spotted]", "licked"}};

// Four seasons, each with its air and something that grows or falls.
typedef struct tales_season {
  const char *name, *air, *sign;
} tales_season;

static const tales_season tales_seasons[] = {
    {"spring", "[mild|fresh|rainy|windy|soft]", "[cherry blossom|primroses|young nettles|catkins|violets]"},
    {"summer", "[hot|bright|golden|still|dusty]", "[poppies|ripe cherries|hay|wild strawberries|cornflowers]"},
    {"autumn", "[foggy|grey|windy|gusty|golden]", "[mushrooms|acorns|red apples|chestnuts|fallen leaves]"},
    {"winter", "[cold|frosty|snowy|clear|bitter]", "[snow|ice|holly berries|fir branches|frost flowers]"}};

// Times of a day as the tales go through it: when it begins, goes on and ends.
static const char *const tales_begins[] = {"morning", "morning", "day", "afternoon"};
static const char *const tales_laters[] = {
    "[by noon|at midday|when the clock struck twelve,]",
    "[by the afternoon|after dinner|an hour later]",
    "[toward evening|late in the day|before long]",
    "[at sunset|when the shadows grew long,|toward evening]"};
static const char *const tales_ends[] = {
    "[that evening|at dusk|when the lamps were lit,]",
    "[that evening|as the sun went down,|at supper time]",
    "[that night|when the stars came out,|by candlelight]",
    "[that night|when the moon rose,|late that night]"};

static const char *const tales_traits[] = {
    "patient", "stubborn", "kind", "clumsy", "clever", "shy", "honest", "dreamy", "proud", "curious", "careful", "restless",
    "talkative", "brave", "thrifty", "forgetful", "generous", "quiet", "hasty", "cheerful", "hot-tempered", "gentle", "sly",
    "lazy", "tidy", "gloomy", "merry", "nosy", "wise", "timid", "boastful", "good-natured"};

#endif // TALES_WORDS_H
