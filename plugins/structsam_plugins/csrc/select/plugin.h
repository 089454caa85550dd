// StructsamSelect; see README.md.
#pragma once

#include "../tensorrt/plugin.h"

namespace structsam {

struct SelectOperator {
    static constexpr char const* NAME = "StructsamSelect";
    enum Input { SCORE, MEMBER, INPUTS };
    enum Output { SLOT, TOKEN, POSITION, OUTPUTS };
    static constexpr Kind KINDS[] = {Kind::SCORES, Kind::INDICES,  // in
                                     Kind::INDICES, Kind::INDICES, Kind::INDICES};
    static constexpr int FEATURES = SCORE;  // no features; the type is not used

    /// Every window as an image of its own, because a plan depends on its window only.
    static StructsamLayer layer(Merging const& merging, nvinfer1::PluginTensorDesc const* inputs) {
        StructsamLayer layer = merging.layer(1, merging.side, merging.side, merging.heads);
        layer.batch = static_cast<int32_t>(inputs[SCORE].dims.d[0]);
        return layer;
    }

    static void shapes(Merging const& merging, nvinfer1::DimsExprs const* inputs,
                       nvinfer1::DimsExprs* outputs, nvinfer1::IExprBuilder& builder) {
        nvinfer1::DimsExprs tokens{2, {}}, slots{2, {}};
        tokens.d[0] = slots.d[0] = inputs[SCORE].d[0];
        tokens.d[1] = builder.constant(merging.tokens());
        slots.d[1] = builder.constant(merging.slots());
        outputs[SLOT] = outputs[TOKEN] = tokens;
        outputs[POSITION] = slots;
    }

    static int run(StructsamLayer const& layer, int, void const* const* inputs, void* const* outputs,
                   void* stream) {
        auto const* const score = static_cast<float const*>(inputs[SCORE]);
        auto const* const member = static_cast<int32_t const*>(inputs[MEMBER]);
        auto const out = [&](Output which) { return static_cast<int32_t*>(outputs[which]); };
        return structsam_select(&layer, score, member, out(SLOT), out(TOKEN), out(POSITION), stream);
    }
};

}  // namespace structsam
