// The implementation alone, as a host would compile it; included twice to see that both guards hold.
#define QINFER_IMPLEMENTATION
#include "../../qinfer.h"
#include "../../qinfer.h"
