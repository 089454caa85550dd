// Slots from features: one averaging gather.
#pragma once

#include "../half.h"
#include "../layer.h"

namespace structsam {

/// One thread for every 16 bytes of every slot. Every row of the map is read once, by its slot; the sum is in
/// fp32 and rounded once.
template <class T>
struct Merge {
    static constexpr int THREADS = 256;

    Layer layer;
    Pack<T> const* x;
    int32_t const* token;
    Pack<T>* slots;

    STRUCTSAM_BOTH int packs() const { return layer.channels / Pack<T>::SIZE; }
    STRUCTSAM_BOTH long long items() const {
        return static_cast<long long>(layer.windows()) * layer.slots() * packs();
    }
    STRUCTSAM_BOTH unsigned blocks() const { return blocks_for(items(), THREADS); }
    STRUCTSAM_BOTH int phases() const { return 1; }
    STRUCTSAM_BOTH int shared() const { return 0; }

    STRUCTSAM_BOTH void operator()(int, unsigned block, int thread, float*) const {
        long long const item = static_cast<long long>(block) * THREADS + thread;
        if (item >= items()) return;
        int const pack = static_cast<int>(item % packs());
        int const window = static_cast<int>(item / packs() / layer.slots());
        int const slot = static_cast<int>(item / packs() % layer.slots());
        bool const merged = slot < layer.merged;
        int const first = merged ? slot * layer.members() : slot + layer.merged * (layer.members() - 1);
        int const count = merged ? layer.members() : 1;
        int32_t const* const tokens = token + static_cast<long long>(window) * layer.tokens() + first;
        slots[item] = mean(window, tokens, count, pack);
    }

private:
    STRUCTSAM_BOTH Pack<T> mean(int window, int32_t const* tokens, int count, int pack) const {
        float sum[Pack<T>::SIZE] = {};
        for (int place = 0; place < count; ++place) {
            long long const row = layer.row(window, tokens[place]);
            if (row < 0) continue;  // padding is zero, and counts in the mean
            Pack<T> const features = x[row * packs() + pack];
            for (int channel = 0; channel < Pack<T>::SIZE; ++channel)
                sum[channel] += to_float(features.values[channel]);
        }
        Pack<T> result;
        for (int channel = 0; channel < Pack<T>::SIZE; ++channel)
            result.values[channel] = rounded<T>(sum[channel] / count);
        return result;
    }
};

}  // namespace structsam
