// StructsamUnmerge; see README.md.
#pragma once

#include "../tensorrt/plugin.h"

namespace structsam {

struct UnmergeOperator {
    static constexpr char const* NAME = "StructsamUnmerge";
    enum Input { SLOTS, SLOT, RESIDUAL, INPUTS };
    enum Output { SUM, OUTPUTS };
    static constexpr Kind KINDS[] = {Kind::FEATURES, Kind::INDICES, Kind::FEATURES, Kind::FEATURES};
    static constexpr int FEATURES = SLOTS;

    static StructsamLayer layer(Merging const& merging, nvinfer1::PluginTensorDesc const* inputs) {
        return merging.layer(inputs[RESIDUAL].dims);
    }

    static void shapes(Merging const&, nvinfer1::DimsExprs const* inputs, nvinfer1::DimsExprs* outputs,
                       nvinfer1::IExprBuilder&) {
        outputs[SUM] = inputs[RESIDUAL];
    }

    static int run(StructsamLayer const& layer, int type, void const* const* inputs, void* const* outputs,
                   void* stream) {
        return structsam_unmerge(&layer, type, inputs[SLOTS], static_cast<int32_t const*>(inputs[SLOT]),
                                 inputs[RESIDUAL], outputs[SUM], stream);
    }
};

}  // namespace structsam
