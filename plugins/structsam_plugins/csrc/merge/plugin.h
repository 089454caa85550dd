// StructsamMerge; see README.md.
#pragma once

#include "../tensorrt/plugin.h"

namespace structsam {

struct MergeOperator {
    static constexpr char const* NAME = "StructsamMerge";
    enum Input { X, TOKEN, INPUTS };
    enum Output { SLOTS, OUTPUTS };
    static constexpr Kind KINDS[] = {Kind::FEATURES, Kind::INDICES, Kind::FEATURES};
    static constexpr int FEATURES = X;

    static StructsamLayer layer(Merging const& merging, nvinfer1::PluginTensorDesc const* inputs) {
        return merging.layer(inputs[X].dims);
    }

    static void shapes(Merging const& merging, nvinfer1::DimsExprs const* inputs,
                       nvinfer1::DimsExprs* outputs, nvinfer1::IExprBuilder& builder) {
        outputs[SLOTS].nbDims = 3;
        outputs[SLOTS].d[0] = inputs[TOKEN].d[0];
        outputs[SLOTS].d[1] = builder.constant(merging.slots());
        outputs[SLOTS].d[2] = inputs[X].d[3];
    }

    static int run(StructsamLayer const& layer, int type, void const* const* inputs, void* const* outputs,
                   void* stream) {
        return structsam_merge(&layer, type, inputs[X], static_cast<int32_t const*>(inputs[TOKEN]),
                               outputs[SLOTS], stream);
    }
};

}  // namespace structsam
