// A host with its own stb_ds before qinfer, implementation included: both work, and the host's names are still its own after.
#define STB_DS_IMPLEMENTATION
#include <stb/stb_ds.h>
#define QINFER_IMPLEMENTATION
#include "../../qinfer.h"
#include "stb_host.h"

int main(void) { return host_uses_stb(); }
