// Features from slots, added to the residual.
#pragma once

#include "../half.h"
#include "../layer.h"

namespace structsam {

/// One thread for every 16 bytes of the map, which looks up its token's slot and adds it. Nothing is computed
/// for padding, and the unmerged features are not stored separately.
template <class T>
struct Unmerge {
    static constexpr int THREADS = 256;

    Layer layer;
    Pack<T> const* slots;
    int32_t const* slot;
    Pack<T> const* residual;
    Pack<T>* sum;

    STRUCTSAM_BOTH int packs() const { return layer.channels / Pack<T>::SIZE; }
    STRUCTSAM_BOTH long long items() const {
        return static_cast<long long>(layer.batch) * layer.height * layer.width * packs();
    }
    STRUCTSAM_BOTH unsigned blocks() const { return blocks_for(items(), THREADS); }
    STRUCTSAM_BOTH int phases() const { return 1; }
    STRUCTSAM_BOTH int shared() const { return 0; }

    STRUCTSAM_BOTH void operator()(int, unsigned block, int thread, float*) const {
        long long const item = static_cast<long long>(block) * THREADS + thread;
        if (item >= items()) return;
        long long const row = item / packs();
        int const x = static_cast<int>(row % layer.width);
        int const y = static_cast<int>(row / layer.width % layer.height);
        int const image = static_cast<int>(row / layer.width / layer.height);
        long long const window = layer.window(image, y / layer.side, x / layer.side);
        int const token = y % layer.side * layer.side + x % layer.side;
        long long const from = window * layer.slots() + slot[window * layer.tokens() + token];
        sum[item] = added(residual[item], slots[from * packs() + item % packs()]);
    }

private:
    static STRUCTSAM_BOTH Pack<T> added(Pack<T> const& one, Pack<T> const& other) {
        Pack<T> result;
        for (int channel = 0; channel < Pack<T>::SIZE; ++channel) {
            float const total = to_float(one.values[channel]) + to_float(other.values[channel]);
            result.values[channel] = rounded<T>(total);
        }
        return result;
    }
};

}  // namespace structsam
