// The merge plan from scores, without a sort.
#pragma once

#include "../layer.h"

namespace structsam {

/// One thread for every cell, which counts the cells of its window that come before it. These are G^2
/// comparisons, a million for a global block, and take no longer than a sort of so few scores; equal scores are
/// ordered by index without extra work.
struct Select {
    static constexpr int THREADS = 128;

    Layer layer;
    float const* score;
    int32_t const* member;
    int32_t *slot, *token, *position;

    STRUCTSAM_BOTH long long items() const { return static_cast<long long>(layer.windows()) * layer.cells(); }
    STRUCTSAM_BOTH unsigned blocks() const { return blocks_for(items(), THREADS); }
    STRUCTSAM_BOTH int phases() const { return 1; }
    STRUCTSAM_BOTH int shared() const { return 0; }

    STRUCTSAM_BOTH void operator()(int, unsigned block, int thread, float*) const {
        long long const item = static_cast<long long>(block) * THREADS + thread;
        if (item >= items()) return;
        int const window = static_cast<int>(item / layer.cells());
        int const cell = static_cast<int>(item % layer.cells());
        long long const tokens = static_cast<long long>(window) * layer.tokens();
        long long const slots = static_cast<long long>(window) * layer.slots();
        int const rank = rank_of(score + static_cast<long long>(window) * layer.cells(), cell);
        bool const merges = rank < layer.merged;
        int const first = merges ? rank : layer.merged + (rank - layer.merged) * layer.members();
        for (int place = 0; place < layer.members(); ++place) {
            int const here = layer.token(cell, place), own = merges ? first : first + place;
            token[tokens + rank * layer.members() + place] = here;
            slot[tokens + here] = own;
            if (!merges || place == member[item]) position[slots + own] = here;
        }
    }

private:
    /// The number of scores that are larger, or equal with a lower index.
    STRUCTSAM_BOTH int rank_of(float const* scores, int cell) const {
        uint32_t const mine = key(scores[cell]);
        int rank = 0;
        for (int other = 0; other < layer.cells(); ++other) {
            uint32_t const its = key(scores[other]);
            rank += its > mine || (its == mine && other < cell);
        }
        return rank;
    }

    /// Integers in the order of the scores. NaN has a place in the order too: ranks are a permutation for any
    /// features, so that nothing is read or written outside of a window.
    static STRUCTSAM_BOTH uint32_t key(float value) {
        union {
            float value;
            uint32_t bits;
        } const score = {value + 0.0f};  // minus zero becomes zero
        return score.bits & 0x80000000u ? ~score.bits : score.bits | 0x80000000u;
    }
};

}  // namespace structsam
