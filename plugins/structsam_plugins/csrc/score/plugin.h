// StructsamScore; see README.md.
#pragma once

#include "../tensorrt/plugin.h"

namespace structsam {

struct ScoreOperator {
    static constexpr char const* NAME = "StructsamScore";
    enum Input { X, INPUTS };
    enum Output { SCORE, MEMBER, OUTPUTS };
    static constexpr Kind KINDS[] = {Kind::FEATURES, Kind::SCORES, Kind::INDICES};
    static constexpr int FEATURES = X;

    static StructsamLayer layer(Merging const& merging, nvinfer1::PluginTensorDesc const* inputs) {
        return merging.layer(inputs[X].dims);
    }

    static void shapes(Merging const& merging, nvinfer1::DimsExprs const* inputs,
                       nvinfer1::DimsExprs* outputs, nvinfer1::IExprBuilder& builder) {
        nvinfer1::DimsExprs cells{2, {}};
        cells.d[0] = merging.windows(inputs[X], builder);
        cells.d[1] = builder.constant(merging.cells());
        outputs[SCORE] = outputs[MEMBER] = cells;
    }

    static int run(StructsamLayer const& layer, int type, void const* const* inputs, void* const* outputs,
                   void* stream) {
        return structsam_score(&layer, type, inputs[X], static_cast<float*>(outputs[SCORE]),
                               static_cast<int32_t*>(outputs[MEMBER]), stream);
    }
};

}  // namespace structsam
