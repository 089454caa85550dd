// Kernels as structs, so that one source runs on a GPU and, for tests, on the CPU.
//
// A kernel declares its number of blocks and its floats of shared memory, and works in phases:
// `kernel(phase, block, thread, shared)`. Threads of a block synchronise only between phases, and exchange data
// only through shared memory. A CPU can therefore run the threads of a phase one after the other with the same
// result.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define STRUCTSAM_BOTH __host__ __device__ inline
#else
#include <vector>
#define STRUCTSAM_BOTH inline
#endif

namespace structsam {

#ifdef __CUDACC__

template <class Kernel>
__global__ void __launch_bounds__(Kernel::THREADS) run(Kernel const kernel) {
    extern __shared__ float shared[];
    for (int phase = 0; phase < kernel.phases(); ++phase) {
        if (phase > 0) __syncthreads();
        kernel(phase, blockIdx.x, threadIdx.x, shared);
    }
}

/// Queue a kernel on a stream; returns a cudaError_t.
template <class Kernel>
int launch(Kernel const& kernel, void* stream) {
    size_t const bytes = kernel.shared() * sizeof(float);
    run<<<kernel.blocks(), Kernel::THREADS, bytes, static_cast<cudaStream_t>(stream)>>>(kernel);
    return cudaGetLastError();
}

#else

/// Run a kernel now, on the CPU; returns 0.
template <class Kernel>
int launch(Kernel const& kernel, void*) {
    // Not zeros: on a GPU shared memory is uninitialised too.
    std::vector<float> shared(kernel.shared(), -1e30f);
    for (unsigned block = 0; block < kernel.blocks(); ++block)
        for (int phase = 0; phase < kernel.phases(); ++phase)
            for (int thread = 0; thread < Kernel::THREADS; ++thread)
                kernel(phase, block, thread, shared.data());
    return 0;
}

#endif

/// Number of blocks of `threads` threads for one thread per item.
STRUCTSAM_BOTH unsigned blocks_for(long long items, int threads) {
    return static_cast<unsigned>((items + threads - 1) / threads);
}

}  // namespace structsam
