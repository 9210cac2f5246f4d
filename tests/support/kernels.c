// The kernels for programs that are compiled with QI__KERNELS_ELSEWHERE and QI_STATIC.
#define QINFER_IMPLEMENTATION
#include "../../qinfer.h"

void qi__kernels_elsewhere(qi__kernels *k, const qi__cpu *cpu);

void qi__kernels_elsewhere(qi__kernels *k, const qi__cpu *cpu) { qi__kernels_init(k, cpu); }
