// Energy, cell score and destination in one kernel that reads the features once.
#pragma once

#include "../half.h"
#include "../layer.h"

namespace structsam {

/// A block processes a strip of neighbouring cells with the border of one token that Sobel needs. It loads the
/// head means of a few channels at a time into shared memory, and sums the squared gradient of every token over
/// all channels; energies are not written to global memory. Borders between blocks are read twice, the second
/// time from the cache.
template <class T>
struct Score {
    static constexpr int THREADS = 128;
    static constexpr int LANES = 8;   // partial sums of a token
    static constexpr int CHUNK = 32;  // channels at a time
    // A warp sums four neighbouring tokens: with this stride their lanes are in different memory banks.
    static constexpr int STRIDE = CHUNK + LANES;
    static constexpr int STRIP = 16;  // tokens, but at least a cell

    Layer layer;
    T const* x;
    float* score;
    int32_t* member;

    STRUCTSAM_BOTH int strip() const {  // in cells
        return layer.members() < STRIP ? STRIP / layer.members() : 1;
    }
    STRUCTSAM_BOTH int columns() const { return strip() * layer.cell; }  // of tokens, without the border
    STRUCTSAM_BOTH int tokens() const { return layer.cell * columns(); }
    STRUCTSAM_BOTH int places() const { return (layer.cell + 2) * (columns() + 2); }  // with the border
    STRUCTSAM_BOTH int map_columns() const { return layer.across() * layer.cells_across(); }  // of cells
    STRUCTSAM_BOTH int map_rows() const { return layer.down() * layer.cells_across(); }
    STRUCTSAM_BOTH int strips() const { return (map_columns() + strip() - 1) / strip(); }  // of a cell row
    STRUCTSAM_BOTH int metric() const { return layer.channels / layer.heads; }
    STRUCTSAM_BOTH int chunks() const { return (metric() + CHUNK - 1) / CHUNK; }

    STRUCTSAM_BOTH unsigned blocks() const { return layer.batch * map_rows() * strips(); }
    STRUCTSAM_BOTH int phases() const { return 2 * chunks() + 2; }
    STRUCTSAM_BOTH int shared() const { return places() * STRIDE + tokens() * (LANES + 1); }

    STRUCTSAM_BOTH void operator()(int phase, unsigned block, int thread, float* memory) const {
        float* const tile = memory;                           // [places, STRIDE]
        float* const partial = tile + places() * STRIDE;      // [tokens, LANES]
        float* const energy = partial + tokens() * LANES;     // [tokens]
        int const chunk = phase / 2;
        if (chunk < chunks()) {
            if (phase % 2 == 0) load(chunk, block, thread, tile);
            else accumulate(chunk, thread, tile, partial);
        } else if (phase % 2 == 0) {
            reduce(block, thread, partial, energy);
        } else {
            judge(block, thread, energy);
        }
    }

private:
    STRUCTSAM_BOTH int image(unsigned block) const { return block / strips() / map_rows(); }
    STRUCTSAM_BOTH int cell_row(unsigned block) const { return block / strips() % map_rows(); }
    STRUCTSAM_BOTH int cell_column(unsigned block) const { return block % strips() * strip(); }

    static STRUCTSAM_BOTH int within(int place, int length) {
        return place < 0 ? 0 : place < length ? place : length - 1;
    }

    /// Load one chunk of channels of the strip and its border, which is replicated at the end of the map.
    STRUCTSAM_BOTH void load(int chunk, unsigned block, int thread, float* tile) const {
        int const top = cell_row(block) * layer.cell - 1, left = cell_column(block) * layer.cell - 1;
        for (int item = thread; item < places() * CHUNK; item += THREADS) {
            int const place = item / CHUNK, channel = chunk * CHUNK + item % CHUNK;
            int const y = within(top + place / (columns() + 2), layer.height);
            int const x = within(left + place % (columns() + 2), layer.width);
            long long const row = (static_cast<long long>(image(block)) * layer.height + y) * layer.width + x;
            tile[place * STRIDE + item % CHUNK] = channel < metric() ? head_mean(row, channel) : 0.0f;
        }
    }

    STRUCTSAM_BOTH float head_mean(long long row, int channel) const {
        T const* const features = x + row * layer.channels + channel;
        float sum = 0.0f;
        for (int head = 0; head < layer.heads; ++head) sum += to_float(features[head * metric()]);
        return sum / layer.heads;
    }

    STRUCTSAM_BOTH void accumulate(int chunk, int thread, float const* tile, float* partial) const {
        for (int item = thread; item < tokens() * LANES; item += THREADS) {
            int const token = item / LANES, lane = item % LANES;
            int const place = (token / columns() + 1) * (columns() + 2) + token % columns() + 1;
            float sum = chunk > 0 ? partial[item] : 0.0f;
            for (int channel = lane; channel < CHUNK; channel += LANES)
                sum += squared_gradient(tile + place * STRIDE + channel);
            partial[item] = sum;
        }
    }

    /// Squared Sobel gradient at one value of the tile: smoothing along one axis, difference along the other.
    STRUCTSAM_BOTH float squared_gradient(float const* centre) const {
        int const right = STRIDE, below = (columns() + 2) * STRIDE;
        float smooth[3], change[3];  // of the columns to the left, here and to the right
        for (int column = 0; column < 3; ++column) {
            float const* const here = centre + (column - 1) * right;
            smooth[column] = here[-below] + 2 * here[0] + here[below];
            change[column] = here[below] - here[-below];
        }
        float const across = smooth[2] - smooth[0], down = change[0] + 2 * change[1] + change[2];
        return across * across + down * down;
    }

    STRUCTSAM_BOTH void reduce(unsigned block, int thread, float const* partial, float* energy) const {
        for (int token = thread; token < tokens(); token += THREADS) {
            int const y = cell_row(block) * layer.cell + token / columns();
            int const x = cell_column(block) * layer.cell + token % columns();
            float sum = 0.0f;
            for (int lane = 0; lane < LANES; ++lane) sum += partial[token * LANES + lane];
            energy[token] = y < layer.height && x < layer.width ? sum : 0.0f;  // padding is flat
        }
    }

    STRUCTSAM_BOTH void judge(unsigned block, int thread, float const* energy) const {
        int const last = map_columns() - cell_column(block);  // the strip may reach beyond the map
        for (int cell = thread; cell < strip() && cell < last; cell += THREADS) {
            float largest = 0.0f, smallest = 0.0f;
            int calmest = 0;
            for (int token = 0; token < layer.members(); ++token) {
                int const column = cell * layer.cell + token % layer.cell;
                float const here = energy[token / layer.cell * columns() + column];
                if (token == 0 || here > largest) largest = here;
                if (token == 0 || here < smallest) smallest = here, calmest = token;
            }
            long long const place = score_index(block, cell_row(block), cell_column(block) + cell);
            score[place] = -largest;
            member[place] = calmest;
        }
    }

    /// Index in [B', G] of a cell of the padded map.
    STRUCTSAM_BOTH long long score_index(unsigned block, int row, int column) const {
        int const side = layer.cells_across();
        int const window = layer.window(image(block), row / side, column / side);
        return static_cast<long long>(window) * layer.cells() + row % side * side + column % side;
    }
};

}  // namespace structsam
