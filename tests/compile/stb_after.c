// A host that includes its own stb_ds after qinfer, implementation included.
#define QINFER_IMPLEMENTATION
#include "../../qinfer.h"
#define STB_DS_IMPLEMENTATION
#include <stb/stb_ds.h>
#include "stb_host.h"

int main(void) { return host_uses_stb(); }
