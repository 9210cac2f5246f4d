// A host whose stb_ds implementation lies in another file than qinfer's: linked with impl.c.
#define STB_DS_IMPLEMENTATION
#include <stb/stb_ds.h>
#include "../../qinfer.h"
#include "stb_host.h"

int main(void) { return host_uses_stb(); }
