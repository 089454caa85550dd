// The same kernels as a library for the CPU, for tests.
#include "structsam.cu"
