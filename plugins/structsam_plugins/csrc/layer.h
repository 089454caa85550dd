// Index arithmetic of a layer: rows of the map, windows, cells and tokens.
#pragma once

#include "launch.h"
#include "structsam.h"

namespace structsam {

struct Layer : StructsamLayer {
    explicit Layer(StructsamLayer const& plain) : StructsamLayer(plain) {}

    STRUCTSAM_BOTH int down() const { return (height + side - 1) / side; }
    STRUCTSAM_BOTH int across() const { return (width + side - 1) / side; }
    STRUCTSAM_BOTH int windows() const { return batch * down() * across(); }  // B'
    STRUCTSAM_BOTH int tokens() const { return side * side; }                 // N
    STRUCTSAM_BOTH int cells_across() const { return side / cell; }
    STRUCTSAM_BOTH int cells() const { return cells_across() * cells_across(); }  // G
    STRUCTSAM_BOTH int members() const { return cell * cell; }                    // m
    STRUCTSAM_BOTH int slots() const { return tokens() - merged * (members() - 1); }  // K

    /// Index of the window in this row and column of an image's windows.
    STRUCTSAM_BOTH int window(int image, int row, int column) const {
        return (image * down() + row) * across() + column;
    }

    /// Index within its window of a cell's token `member`, 0 .. m - 1 in raster order.
    STRUCTSAM_BOTH int token(int of_cell, int member) const {
        int const row = of_cell / cells_across() * cell + member / cell;
        int const column = of_cell % cells_across() * cell + member % cell;
        return row * side + column;
    }

    /// Row of a token among all B H W rows of the map; -1 for padding.
    STRUCTSAM_BOTH long long row(int of_window, int of_token) const {
        int const image = of_window / (down() * across()), place = of_window % (down() * across());
        int const y = place / across() * side + of_token / side;
        int const x = place % across() * side + of_token % side;
        return y < height && x < width ? (static_cast<long long>(image) * height + y) * width + x : -1;
    }
};

}  // namespace structsam
