#define QI_STATIC
#define QINFER_IMPLEMENTATION
#include "../../qinfer.h"

const char *name_from_b(void);
const char *name_from_b(void) { return qi_result_name(QI_ERR_IO); }
