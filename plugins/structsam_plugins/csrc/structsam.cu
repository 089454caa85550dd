// The C interface. Arguments are checked here; the kernels check nothing.
#include "structsam.h"

#include <initializer_list>

#include "merge/merge.h"
#include "score/score.h"
#include "select/select.h"
#include "unmerge/unmerge.h"

namespace structsam {
namespace {

constexpr int SHARED_FLOATS = 48 * 1024 / sizeof(float);  // available on every GPU by default
constexpr int64_t MOST = INT32_MAX;

bool fits(StructsamLayer const& layer) {
    int const sizes[] = {layer.batch, layer.height, layer.width, layer.channels,
                         layer.side,  layer.cell,   layer.merged, layer.heads};
    for (int const size : sizes)
        if (size < 1) return false;
    if (layer.side > 32768 || layer.side % layer.cell || layer.channels % layer.heads) return false;
    Layer const whole(layer);
    int64_t const windows = static_cast<int64_t>(layer.batch) * whole.down() * whole.across();
    return windows * whole.tokens() <= MOST && layer.merged <= whole.cells();
}

/// The error code of a layer whose features are moved in packs; STRUCTSAM_OK if there is none.
int refusal(StructsamLayer const& layer, int type, std::initializer_list<void const*> features) {
    if (!fits(layer)) return STRUCTSAM_BAD_LAYER;
    if (type != STRUCTSAM_FLOAT && type != STRUCTSAM_HALF) return STRUCTSAM_BAD_TYPE;
    if (layer.channels % (type == STRUCTSAM_FLOAT ? Pack<float>::SIZE : Pack<Half>::SIZE))
        return STRUCTSAM_BAD_CHANNELS;
    for (void const* const start : features)
        if (reinterpret_cast<uintptr_t>(start) % sizeof(Pack<float>)) return STRUCTSAM_BAD_ALIGNMENT;
    return STRUCTSAM_OK;
}

template <class T>
int score(StructsamLayer const& layer, void const* x, float* score, int32_t* member, void* stream) {
    Score<T> const kernel{Layer(layer), static_cast<T const*>(x), score, member};
    return kernel.shared() > SHARED_FLOATS ? STRUCTSAM_BAD_CELL : launch(kernel, stream);
}

template <class T>
int merge(StructsamLayer const& layer, void const* x, int32_t const* token, void* slots, void* stream) {
    using P = Pack<T>;
    Merge<T> const kernel{Layer(layer), static_cast<P const*>(x), token, static_cast<P*>(slots)};
    return launch(kernel, stream);
}

template <class T>
int unmerge(StructsamLayer const& layer, void const* slots, int32_t const* slot, void const* residual,
            void* sum, void* stream) {
    using P = Pack<T>;
    Unmerge<T> const kernel{Layer(layer), static_cast<P const*>(slots), slot,
                            static_cast<P const*>(residual), static_cast<P*>(sum)};
    return launch(kernel, stream);
}

}  // namespace
}  // namespace structsam

using structsam::Half;

extern "C" {

const char* structsam_error(int code) {
    switch (code) {
        case STRUCTSAM_OK: return "no error";
        case STRUCTSAM_BAD_LAYER: return "the sizes of the layer are inconsistent";
        case STRUCTSAM_BAD_TYPE: return "features are neither fp32 nor fp16";
        case STRUCTSAM_BAD_CHANNELS: return "the size of a row of channels is not a multiple of 16 bytes";
        case STRUCTSAM_BAD_ALIGNMENT: return "the address of features is not a multiple of 16 bytes";
        case STRUCTSAM_BAD_CELL: return "cells are too large";
    }
#ifdef __CUDACC__
    return cudaGetErrorString(static_cast<cudaError_t>(code));
#else
    return "unknown error";
#endif
}

int structsam_score(const StructsamLayer* layer, int type, const void* x, float* score, int32_t* member,
                    void* stream) {
    if (!structsam::fits(*layer)) return STRUCTSAM_BAD_LAYER;
    if (type == STRUCTSAM_FLOAT) return structsam::score<float>(*layer, x, score, member, stream);
    if (type == STRUCTSAM_HALF) return structsam::score<Half>(*layer, x, score, member, stream);
    return STRUCTSAM_BAD_TYPE;
}

int structsam_select(const StructsamLayer* layer, const float* score, const int32_t* member, int32_t* slot,
                     int32_t* token, int32_t* position, void* stream) {
    if (!structsam::fits(*layer)) return STRUCTSAM_BAD_LAYER;
    structsam::Layer const known(*layer);
    return structsam::launch(structsam::Select{known, score, member, slot, token, position}, stream);
}

int structsam_merge(const StructsamLayer* layer, int type, const void* x, const int32_t* token, void* slots,
                    void* stream) {
    if (int const refused = structsam::refusal(*layer, type, {x, slots})) return refused;
    return type == STRUCTSAM_FLOAT ? structsam::merge<float>(*layer, x, token, slots, stream)
                                   : structsam::merge<Half>(*layer, x, token, slots, stream);
}

int structsam_unmerge(const StructsamLayer* layer, int type, const void* slots, const int32_t* slot,
                      const void* residual, void* sum, void* stream) {
    if (int const refused = structsam::refusal(*layer, type, {slots, residual, sum})) return refused;
    return type == STRUCTSAM_FLOAT
               ? structsam::unmerge<float>(*layer, slots, slot, residual, sum, stream)
               : structsam::unmerge<Half>(*layer, slots, slot, residual, sum, stream);
}

}  // extern "C"
