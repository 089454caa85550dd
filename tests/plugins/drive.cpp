// Does with a plugin what TensorRT does: creates it from fields, asks for types and shapes, copies it by what it
// serialises, runs it. One function, which Python calls.
#include <NvInfer.h>

#include <cstring>
#include <deque>

using namespace nvinfer1;

extern "C" IPluginCreatorInterface* const* getCreators(int32_t& count);

namespace {

class Constant final : public IDimensionExpr, apiv::VDimensionExpr {
public:
    explicit Constant(int64_t value) : value_(value) { mImpl = this; }
    bool isConstant() const override { return true; }
    int64_t getConstantValue() const override { return value_; }
    bool isSizeTensor() const override { return false; }

private:
    int64_t value_;
};

class Builder final : public IExprBuilder, apiv::VExprBuilder {
public:
    Builder() { mImpl = this; }
    IDimensionExpr const* constant(int64_t value) override { return &made_.emplace_back(value); }
    IDimensionExpr const* operation(DimensionOperation what, IDimensionExpr const& first,
                                    IDimensionExpr const& second) override {
        int64_t const a = first.getConstantValue(), b = second.getConstantValue();
        return constant(what == DimensionOperation::kCEIL_DIV ? (a + b - 1) / b : a * b);
    }
    IDimensionExpr const* declareSizeTensor(int32_t, IDimensionExpr const&, IDimensionExpr const&) override {
        return nullptr;
    }

private:
    std::deque<Constant> made_;  // whose elements stay where they are
};

IPluginCreatorV3One* creator_of(char const* name) {
    int32_t count = 0;
    IPluginCreatorInterface* const* const creators = getCreators(count);
    for (int32_t index = 0; index < count; ++index) {
        auto* const creator = static_cast<IPluginCreatorV3One*>(creators[index]);
        if (std::strcmp(creator->getPluginName(), name) == 0) return creator;
    }
    return nullptr;
}

template <class Capability>
Capability* capability(IPluginV3* plugin, PluginCapabilityType type) {
    return static_cast<Capability*>(plugin->getCapabilityInterface(type));
}

}  // namespace

struct Tensor {
    int32_t type;  // a DataType
    int32_t rank;
    int64_t shape[4];
    void* values;
};

/// Fills in types and shapes of the outputs, and, if `run` is set, their values. Returns 0, or which step failed.
extern "C" int drive(char const* name, int32_t const attributes[4], Tensor const* inputs, int32_t ins,
                     Tensor* outputs, int32_t outs, int32_t run) {
    IPluginCreatorV3One* const creator = creator_of(name);
    if (!creator) return 1;
    PluginFieldCollection const* const names = creator->getFieldNames();
    if (names->nbFields != 4) return 2;
    PluginField fields[4];
    for (int index = 0; index < 4; ++index) {
        fields[index] = names->fields[index];
        fields[index].data = attributes + index;
    }
    PluginFieldCollection const given{4, fields};
    IPluginV3* const first = creator->createPlugin("first", &given, TensorRTPhase::kBUILD);
    if (!first) return 3;
    auto* const stored = capability<IPluginV3OneRuntime>(first, PluginCapabilityType::kRUNTIME);
    IPluginV3* const plugin =
        creator->createPlugin("second", stored->getFieldsToSerialize(), TensorRTPhase::kRUNTIME);
    if (!plugin) return 4;
    delete first;
    auto* const build = capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
    auto* const runtime = capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
    if (build->getNbOutputs() != outs) return 5;

    Builder builder;
    DataType in_types[4], out_types[4];
    DimsExprs in_shapes[4], out_shapes[4];
    for (int32_t index = 0; index < ins; ++index) {
        in_types[index] = static_cast<DataType>(inputs[index].type);
        in_shapes[index].nbDims = inputs[index].rank;
        for (int32_t axis = 0; axis < inputs[index].rank; ++axis)
            in_shapes[index].d[axis] = builder.constant(inputs[index].shape[axis]);
    }
    if (build->getOutputDataTypes(out_types, outs, in_types, ins)) return 6;
    if (build->getOutputShapes(in_shapes, ins, nullptr, 0, out_shapes, outs, builder)) return 7;
    for (int32_t index = 0; index < outs; ++index) {
        outputs[index].type = static_cast<int32_t>(out_types[index]);
        outputs[index].rank = out_shapes[index].nbDims;
        for (int32_t axis = 0; axis < outputs[index].rank; ++axis)
            outputs[index].shape[axis] = out_shapes[index].d[axis]->getConstantValue();
    }

    DynamicPluginTensorDesc all[8]{};
    PluginTensorDesc descriptions[8]{};
    for (int32_t index = 0; index < ins + outs; ++index) {
        Tensor const& tensor = index < ins ? inputs[index] : outputs[index - ins];
        descriptions[index].type = static_cast<DataType>(tensor.type);
        descriptions[index].format = TensorFormat::kLINEAR;
        descriptions[index].dims.nbDims = tensor.rank;
        for (int32_t axis = 0; axis < tensor.rank; ++axis) descriptions[index].dims.d[axis] = tensor.shape[axis];
        all[index].desc = descriptions[index];
    }
    for (int32_t index = 0; index < ins + outs; ++index)
        if (!build->supportsFormatCombination(index, all, ins, outs)) return 100 + index;
    all[0].desc.format = TensorFormat::kCHW32;
    if (build->supportsFormatCombination(0, all, ins, outs)) return 8;
    if (build->configurePlugin(all, ins, all + ins, outs)) return 9;
    int error = 0;
    if (run) {
        IPluginV3* const attached = runtime->attachToContext(nullptr);
        void const* in[4];
        void* out[4];
        for (int32_t index = 0; index < ins; ++index) in[index] = inputs[index].values;
        for (int32_t index = 0; index < outs; ++index) out[index] = outputs[index].values;
        auto* const running = capability<IPluginV3OneRuntime>(attached, PluginCapabilityType::kRUNTIME);
        error = running->enqueue(descriptions, descriptions + ins, in, out, nullptr, nullptr) ? 10 : 0;
        delete attached;
    }
    delete plugin;
    return error;
}
