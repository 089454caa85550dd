// Kernels as structs, so that one source runs on a GPU and, for tests, on the CPU.
//
// A kernel says how many blocks and how many floats of shared memory it wants, and does its work in phases:
// `kernel(phase, block, thread, shared)`. Threads of a block meet between phases and nowhere else, and what
// one hands to another is in shared memory. So a CPU may run the threads of a phase one after the other, and
// computes what a GPU does.
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
    // Not zeros: what a block finds in shared memory is whatever the last one left there.
    std::vector<float> shared(kernel.shared(), -1e30f);
    for (unsigned block = 0; block < kernel.blocks(); ++block)
        for (int phase = 0; phase < kernel.phases(); ++phase)
            for (int thread = 0; thread < Kernel::THREADS; ++thread)
                kernel(phase, block, thread, shared.data());
    return 0;
}

#endif

/// Blocks of `threads` threads that have a thread for each of `items`.
STRUCTSAM_BOTH unsigned blocks_for(long long items, int threads) {
    return static_cast<unsigned>((items + threads - 1) / threads);
}

}  // namespace structsam
