// The common part of the four plugins: TensorRT's plugin interface as a template over an operator.
//
// An operator is a struct with its NAME, the KINDS of its tensors, its layer from the shapes of its inputs, the
// shapes of its outputs, and its function of the C interface.
#pragma once

#include <NvInfer.h>

#include <array>
#include <cstring>
#include <new>
#include <string>

#include "../structsam.h"

namespace structsam {

/// The content of an operator's tensor.
enum class Kind {
    FEATURES,  // fp32 or fp16, the same type for all features of an operator
    SCORES,    // fp32
    INDICES,   // int32
};

/// The sizes of a layer's merging: the attributes of all four operators.
struct Merging {
    int32_t side, cell, merged, heads;

    int32_t tokens() const { return side * side; }
    int32_t cells() const { return (side / cell) * (side / cell); }
    int32_t slots() const { return tokens() - merged * (cell * cell - 1); }

    bool makes_sense() const {
        return side > 0 && side <= 32768 && cell > 0 && side % cell == 0 && merged > 0 && merged <= cells() &&
               heads > 0;
    }

    StructsamLayer layer(int32_t batch, int32_t height, int32_t width, int32_t channels) const {
        return {batch, height, width, channels, side, cell, merged, heads};
    }

    /// The layer of features [B, H, W, C].
    StructsamLayer layer(nvinfer1::Dims const& features) const {
        auto const size = [&](int axis) { return static_cast<int32_t>(features.d[axis]); };
        return layer(size(0), size(1), size(2), size(3));
    }

    /// B', the number of windows of features [B, H, W, C] with possibly symbolic sizes.
    nvinfer1::IDimensionExpr const* windows(nvinfer1::DimsExprs const& features,
                                            nvinfer1::IExprBuilder& builder) const {
        using Operation = nvinfer1::DimensionOperation;
        auto const* const length = builder.constant(side);
        auto const* const down = builder.operation(Operation::kCEIL_DIV, *features.d[1], *length);
        auto const* const across = builder.operation(Operation::kCEIL_DIV, *features.d[2], *length);
        auto const* const per_image = builder.operation(Operation::kPROD, *down, *across);
        return builder.operation(Operation::kPROD, *features.d[0], *per_image);
    }
};

/// The attributes in TensorRT's form: four integers by name.
class Fields {
public:
    explicit Fields(Merging const& values = {})
        : values_{values.side, values.cell, values.merged, values.heads} {
        char const* const names[] = {"side", "cell", "merged", "heads"};
        for (size_t index = 0; index < fields_.size(); ++index)
            fields_[index] = {names[index], &values_[index], nvinfer1::PluginFieldType::kINT32, 1};
    }
    Fields(Fields const&) = delete;  // its fields point to its own members
    Fields& operator=(Fields const&) = delete;

    nvinfer1::PluginFieldCollection const* collection() const { return &collection_; }

    static Merging read(nvinfer1::PluginFieldCollection const& given) {
        auto const value = [&](char const* name) -> int32_t {
            for (int32_t index = 0; index < given.nbFields; ++index) {
                nvinfer1::PluginField const& field = given.fields[index];
                if (std::strcmp(field.name, name) == 0 && field.type == nvinfer1::PluginFieldType::kINT32)
                    return *static_cast<int32_t const*>(field.data);
            }
            return 0;  // invalid for every attribute
        };
        return {value("side"), value("cell"), value("merged"), value("heads")};
    }

private:
    std::array<int32_t, 4> values_;
    std::array<nvinfer1::PluginField, 4> fields_;
    nvinfer1::PluginFieldCollection collection_{static_cast<int32_t>(fields_.size()), fields_.data()};
};

inline char const* const VERSION = "1";
inline char const* const NAMESPACE = "";

template <class Operator>
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
public:
    explicit Plugin(Merging const& merging) : merging_(merging), fields_(merging) {}

    // IPluginV3

    nvinfer1::IPluginCapability* getCapabilityInterface(
        nvinfer1::PluginCapabilityType type) noexcept override {
        using nvinfer1::PluginCapabilityType;
        switch (type) {
            case PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
            case PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
            case PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    nvinfer1::IPluginV3* clone() noexcept override { return new (std::nothrow) Plugin(merging_); }

    // Core

    char const* getPluginName() const noexcept override { return Operator::NAME; }
    char const* getPluginVersion() const noexcept override { return VERSION; }
    char const* getPluginNamespace() const noexcept override { return NAMESPACE; }

    // Build

    int32_t getNbOutputs() const noexcept override { return Operator::OUTPUTS; }

    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const*, int32_t inputs,
                            nvinfer1::DynamicPluginTensorDesc const*, int32_t outputs) noexcept override {
        return inputs == Operator::INPUTS && outputs == Operator::OUTPUTS ? 0 : 1;
    }

    int32_t getOutputDataTypes(nvinfer1::DataType* types, int32_t outputs, nvinfer1::DataType const* inputs,
                               int32_t) const noexcept override {
        for (int32_t output = 0; output < outputs; ++output) {
            Kind const kind = Operator::KINDS[Operator::INPUTS + output];
            types[output] = kind == Kind::FEATURES ? inputs[Operator::FEATURES]
                            : kind == Kind::SCORES ? nvinfer1::DataType::kFLOAT
                                                   : nvinfer1::DataType::kINT32;
        }
        return 0;
    }

    bool supportsFormatCombination(int32_t place, nvinfer1::DynamicPluginTensorDesc const* tensors, int32_t,
                                   int32_t) noexcept override {
        nvinfer1::PluginTensorDesc const& tensor = tensors[place].desc;
        if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
        switch (Operator::KINDS[place]) {
            case Kind::SCORES: return tensor.type == nvinfer1::DataType::kFLOAT;
            case Kind::INDICES: return tensor.type == nvinfer1::DataType::kINT32;
            case Kind::FEATURES: break;
        }
        if (place != Operator::FEATURES) return tensor.type == tensors[Operator::FEATURES].desc.type;
        return tensor.type == nvinfer1::DataType::kFLOAT || tensor.type == nvinfer1::DataType::kHALF;
    }

    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t, nvinfer1::DimsExprs const*, int32_t,
                            nvinfer1::DimsExprs* outputs, int32_t,
                            nvinfer1::IExprBuilder& builder) noexcept override {
        Operator::shapes(merging_, inputs, outputs, builder);
        return 0;
    }

    // Runtime

    int32_t onShapeChange(nvinfer1::PluginTensorDesc const*, int32_t, nvinfer1::PluginTensorDesc const*,
                          int32_t) noexcept override {
        return 0;
    }

    int32_t enqueue(nvinfer1::PluginTensorDesc const* descriptions, nvinfer1::PluginTensorDesc const*,
                    void const* const* inputs, void* const* outputs, void*,
                    cudaStream_t stream) noexcept override {
        StructsamLayer const layer = Operator::layer(merging_, descriptions);
        bool const half = descriptions[Operator::FEATURES].type == nvinfer1::DataType::kHALF;
        return Operator::run(layer, half ? STRUCTSAM_HALF : STRUCTSAM_FLOAT, inputs, outputs, stream);
    }

    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
        return clone();
    }

    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override {
        return fields_.collection();
    }

private:
    Merging const merging_;
    Fields const fields_;
};

template <class Operator>
class Creator final : public nvinfer1::IPluginCreatorV3One {
public:
    nvinfer1::IPluginV3* createPlugin(char const*, nvinfer1::PluginFieldCollection const* given,
                                      nvinfer1::TensorRTPhase) noexcept override {
        Merging const merging = Fields::read(*given);
        return merging.makes_sense() ? new (std::nothrow) Plugin<Operator>(merging) : nullptr;
    }

    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override {
        return names_.collection();
    }

    char const* getPluginName() const noexcept override { return Operator::NAME; }
    char const* getPluginVersion() const noexcept override { return VERSION; }
    char const* getPluginNamespace() const noexcept override { return NAMESPACE; }

private:
    Fields const names_{};
};

}  // namespace structsam
