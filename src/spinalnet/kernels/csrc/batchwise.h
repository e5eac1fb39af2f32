// The forward pass with the batch along the vectors, for chains whose weights are not used often
// enough, or are too awkward a shape, to be copied into panels.
//
// A block of rows is transposed once, and everything after that is transposed too:
//
//   h_l^T = act(A_l s^T + B_l h_(l-1)^T + b_l)
//
// is the same product of tiles as ever, but the weights, read where they lie along their rows, are
// the left side, and x^T or h^T the right. The outputs of a tile are whole vectors of h^T, right
// side of the next layer as they are; nothing is padded but the last vector along the batch,
// whatever the width. Only what leaves the kernel, logits and hidden outputs if wanted, is
// transposed back.

#pragma once

#include "product.h"

namespace spinalnet {
namespace SPINAL_ARCH {

// A matrix with a column per row of the batch, in panels as `pack_transposed` makes them: the panel
// of column n starts at height * n and has its rows one behind the other.
template <class T>
struct Panels {
    T* data;
    index height;

    T* at(index row, index column, int width) const { return data + height * column + row * width; }
};

// c[MR][NV * Lanes] = act(scale * (sum over the terms of a * b) + shift); a scale and a shift per
// row.
template <class T, int Lanes, int MR, int NV>
void activate(const Term<T>* terms, int count, const Finish<T>& f) {
    using V = Vector<T, Lanes>;
    V sum[MR][NV] = {};
    add_terms<T, Lanes, MR, NV, false>(terms, count, sum);
    const auto finish = [&](auto act) {
        for_each_in_tile<MR, NV>([&](int i, int v) {
            store(f.c + (i * NV + v) * Lanes, act(sum[i][v] * f.scale[i] + f.shift[i]));
        });
    };
    // Decided once per tile: `activation` knows these slopes when it is inlined.
    if (f.slope == 0) {
        finish([](V z) { return activation(z, T(0)); });
    } else if (f.slope == 1) {
        finish([](V z) { return z; });
    } else {
        finish([slope = f.slope](V z) { return activation(z, slope); });
    }
}

template <class T, int Lanes, std::size_t... Size>
inline void activate_tile(std::index_sequence<Size...>, int rows, int vectors, const Term<T>* terms,
                          int count, const Finish<T>& finish) {
    using Function = void (*)(const Term<T>*, int, const Finish<T>&);
    static constexpr Function functions[] = {
        activate<T, Lanes, Size / kTileVectors + 1, Size % kTileVectors + 1>...};
    functions[(rows - 1) * kTileVectors + vectors - 1](terms, count, finish);
}

// One factor of a layer's sums: `a`, one row per neuron, times rows [first, first + length) of `b`.
template <class T>
struct Factor {
    const T* a;
    index a_stride;
    Panels<T> b;
    index first, length;
};

// `height` rows of c, from c_row on, = act(scale * (sum over the factors) + shift). A strip of `a`
// passes by all panels while it is in the L1 cache, so that a weight is read from farther away
// once.
template <class T, int Lanes>
void batchwise_product(const Factor<T>* factors, int count, index height, index columns,
                       const Panels<T>& c, index c_row, const Finish<T>& finish) {
    for (index row = 0; row < height;) {
        const int rows = tile_rows(height - row);
        for_each_panel<Lanes>(columns, [&](index column, int vectors) {
            const int width = vectors * Lanes;
            Term<T> terms[2];
            for (int t = 0; t < count; ++t) {
                const Factor<T>& f = factors[t];
                terms[t] = {f.a + row * f.a_stride, f.a_stride, f.b.at(f.first, column, width),
                            width, f.length};
            }
            Finish<T> here = finish;
            here.c = c.at(c_row + row, column, width);
            here.scale += row, here.shift += row;
            activate_tile<T, Lanes>(TileSizes(), rows, vectors, terms, count, here);
        });
        row += rows;
    }
}

// c[n, j] = panels[j, n]
template <class T, int Lanes>
void unpack_transposed(const Panels<T>& panels, index columns, T* c, index stride) {
    constexpr int block = kNarrow<T>;
    using V = Vector<T, block>;
    for_each_panel<Lanes>(columns, [&](index column, int vectors) {
        const int width = vectors * Lanes;
        for (index n = column; n < columns && n < column + width; n += block) {
            for (index j = 0; j < panels.height; j += block) {
                V square[block];
                for (int i = 0; i < block; ++i) {
                    square[i] = j + i < panels.height
                                    ? load<V>(panels.at(j + i, column, width) + n - column)
                                    : V{};
                }
                transpose(square);
                for (int i = 0; i < block && n + i < columns; ++i) {
                    store_first(c + (n + i) * stride + j, square[i], panels.height - j);
                }
            }
        }
    });
}

// Rows per block: two panels, so that a strip of weights is read once for both, and few enough for
// x and the hidden outputs to stay in the L2 cache; fewer if that gives every thread a block.
template <class T>
inline index batchwise_rows(index rows, int threads) {
    constexpr index most = 2 * kTileVectors * kWide<T>;
    const index share = round_up((rows + threads - 1) / threads, kWide<T>);
    return share < most ? share : most;
}

// The choice between both layouts, in multiply-accumulates of one lane (as many as would take the
// same time), fitted to timings of some twenty chains of all proportions at 1 to 4096 rows.
//
// Along the neurons every weight is copied into a panel once per call, and every layer costs a row
// its start, the vectors of its results, and more if the last one is not full: what is stored in
// part has to be loaded again by the next layer. Along the batch there are numbers to transpose.
// That hidden outputs are too, if they are wanted, is left out, up to 5 % of forward: so inference
// and training choose alike and round alike.
constexpr double kPackWeight = 8;
constexpr double kStartLayer = 220, kFinishVector = 150, kFinishPart = 600;
constexpr double kTranspose = 9, kFinishBatchwise = 8;

template <class T>
bool batchwise_pays(const Spine<T>& s) {
    const index hidden = s.layers * s.width;
    const index vectors = round_up(s.width, kNarrow<T>) / kNarrow<T>;
    const double part = s.width % kNarrow<T> ? kFinishPart : 0;
    const double row = kStartLayer + kFinishVector * vectors + part;
    const double batchwise_row = kTranspose * s.features + kFinishBatchwise * hidden;
    return s.rows * batchwise_row < s.rows * s.layers * row + kPackWeight * macs_per_row(s);
}

template <class T, int Lanes, class Affine>
void forward_batchwise(const Spine<T>& s, const Affine& affine, index first, index rows) {
    const index height = s.layers * s.width, padded = round_up(rows, Lanes);
    const Operand<T> packed = pack_transposed<T, Lanes>(
        [&](index n) { return s.x + (first + n) * s.x_stride; }, s.features, rows);
    const Panels<T> x{packed.packed.data(), s.features};
    const Buffer<T> values((height + s.outputs) * padded);
    const Panels<T> hidden{values.data(), height};
    for (index l = 0; l < s.layers; ++l) {
        const Layer<T>& layer = s.layer[l];
        const Factor<T> factors[] = {
            {layer.weight, layer.stride, x, layer.offset, layer.size},
            {is_chained(s, l) ? chained(s, l) : nullptr, layer.stride, hidden, (l - 1) * s.width,
             s.width}};
        Finish<T> finish{};
        affine.apply(s, l, finish);
        batchwise_product<T, Lanes>(factors, is_chained(s, l) ? 2 : 1, s.width, rows, hidden,
                                    l * s.width, finish);
    }
    if (s.hidden) {
        unpack_transposed<T, Lanes>(hidden, rows, s.hidden + first * height, height);
    }
    if (s.outputs) {
        const Panels<T> logits{values.data() + height * padded, s.outputs};
        const Factor<T> factor{s.out_weight, s.out_stride, hidden, 0, height};
        Finish<T> finish{};
        affine.apply(s, s.layers, finish);
        batchwise_product<T, Lanes>(&factor, 1, s.outputs, rows, logits, 0, finish);
        unpack_transposed<T, Lanes>(logits, rows, s.logits + first * s.outputs, s.outputs);
    }
}

// Forward of `rows` rows from `first` on.
template <class T, class Affine>
void forward_batchwise(const Spine<T>& s, const Affine& affine, index first, index rows) {
    use_wide<T>(rows) ? forward_batchwise<T, kWide<T>>(s, affine, first, rows)
                      : forward_batchwise<T, kNarrow<T>>(s, affine, first, rows);
}

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
