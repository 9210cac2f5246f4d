// The grammar of exercises: short sentences about the same few people, things and places, in which most names, trades and pronouns
// follow from what was said before. A model learns from them to look back; in tales,
// names that were there before are one token in forty.
#ifndef TALES_DRILL_H
#define TALES_DRILL_H

static const char *const tales_drill[] = {
    "=drill",
      "{h} saw {f}, and {f} saw {h}.", "{e} called {h}, and {h} came.", "{f} asked {e}, and {e} answered {f}.",
      "{h} gave {f} {o.a}.", "{f} gave {o.the} to {e}.", "{e} liked {o.the}, and so did {f}.",
      "{h} is a {h.trade}.", "{f} is a {f.trade}.", "{e} is a {e.trade}.",
      "~hf the {h.trade} greeted the {f.trade}.", "~fe the {f.trade} helped the {e.trade}.",
      "~he the {e.trade} laughed at the {h.trade}.",
      "{h} smiled, because {h.he} liked {f}.", "{f} sighed, because {f.he} missed {e}.", "{e} waved, because {e.he} knew {h}.",
      "{h} took {h.his} {h.tool}.", "{f} took {f.his} {f.tool}.", "{e} took {e.his} {e.tool}.",
      "\"Where is {h}?\" asked {f}. \"Here I am!\" said {h}.", "\"Is {e} there?\" asked {h}. \"I am,\" said {e}.",
      "\"Thank you, {f},\" said {e}. \"Good night, {e},\" said {f}.",
      "{h} went to {a}, and {f} went to {b}.", "{e} was {a.at} too, with {h}.", "{f} waited {b.at} for {e}.",
      "{h} sells {h.goods}, and {f} buys them from {h.him}.", "{e} sells {e.goods}, and {h} buys them from {e.him}.",
      "{h} hid {g.a} {a.at}.", "{f} found {g.a} {a.at}, and gave it to {h}.", "{g.the} belongs to {h}, and {o.the} to {f}.",
      "{n.a} came by. {h} fed the {n}, and the {n} followed {h.him}.", "the {n} ran to {f}, and {f.he} laughed.",
      "{h} and {f} are friends, and so are {f} and {e}.", "{f}, {h} and {e} live in {v}.", "everyone in {v} knows {h} and {e}.",
      "{h}'s {o} is old, but {f} likes it.", "{e} found {h}'s {h.tool} and {f}'s {f.tool}.",
      "{h.trait} {h} sat down, and {f.trait} {f} stood up.", "\"{h} is {h.trait},\" said {e}. \"And {f} is {f.trait},\" said {h}.",
};

#endif // TALES_DRILL_H
