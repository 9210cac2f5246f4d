// Two files of one program, each with its own static copy.
#define QI_STATIC
#define QINFER_IMPLEMENTATION
#include "../../qinfer.h"

const char *name_from_b(void);
int main(void) { return strcmp(qi_result_name(QI_ERR_IO), name_from_b()) == 0 ? 0 : 1; }
