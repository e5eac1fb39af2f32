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

#include "blocks.h"
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
    // From the panel of `column` on.
    Panels from(index column) const { return {data + height * column, height}; }
};

// c[MR][NV * Lanes] = act(scale * (start + sum over the terms of a * b) + shift), a scale and a
// shift per row; or, kGate, (start + sum) * act'(z), with the transposed matrix for a. `start` and
// `gate` lie as c does.
template <class T, int Lanes, int MR, int NV, int Kind>
void finish_batchwise(const Term<T>* terms, int count, const Finish<T>& f) {
    constexpr bool gates = Kind == Finish<T>::kGate;
    using V = Vector<T, Lanes>;
    V sum[MR][NV] = {};
    if (f.start) {
        for_each_in_tile<MR, NV>(
            [&](int i, int v) { sum[i][v] = load<V>(f.start + (i * NV + v) * Lanes); });
    }
    add_terms<T, Lanes, MR, NV, gates>(terms, count, sum);
    const auto finish = [&](auto slope) __attribute__((always_inline)) {
        for_each_in_tile<MR, NV>([&](int i, int v) {
            const index at = (i * NV + v) * Lanes;
            if constexpr (gates) {
                store(f.c + at, gated(sum[i][v], load<V>(f.gate + at), slope()));
            } else {
                store(f.c + at, activation(sum[i][v] * f.scale[i] + f.shift[i], slope()));
            }
        });
    };
    // Decided once per tile: `activation` knows these slopes when it is inlined.
    if (f.slope == 0) {
        finish([] { return T(0); });
    } else if (f.slope == 1) {
        finish([] { return T(1); });
    } else {
        finish([slope = f.slope] { return slope; });
    }
}

template <class T, int Lanes, int Kind, std::size_t... Size>
inline void batchwise_tile(std::index_sequence<Size...>, int rows, int vectors,
                           const Term<T>* terms, int count, const Finish<T>& finish) {
    using Function = void (*)(const Term<T>*, int, const Finish<T>&);
    static constexpr Function functions[] = {
        finish_batchwise<T, Lanes, Size / kTileVectors + 1, Size % kTileVectors + 1, Kind>...};
    functions[(rows - 1) * kTileVectors + vectors - 1](terms, count, finish);
}

// One factor of a layer's sums: `a`, one row per neuron (kGate: one column), times rows
// [first, first + length) of `b`.
template <class T>
struct Factor {
    const T* a;
    index a_stride;
    Panels<T> b;
    index first, length;
};

// Where the finish of a batchwise product finds what it adds and what it gates by.
template <class T>
struct Beside {
    Panels<T> values{nullptr, 0};
    index row = 0;  // the first one
};

// `height` rows of c, from c_row on, = finish(start + sum over the factors). A strip of `a` passes
// by all panels while it is in the L1 cache, so that a weight is read from farther away once.
template <class T, int Lanes, int Kind = Finish<T>::kActivate>
void batchwise_product(const Factor<T>* factors, int count, index height, index columns,
                       const Panels<T>& c, index c_row, const Finish<T>& finish,
                       const Beside<T>& start = {}, const Beside<T>& gate = {}) {
    constexpr bool gates = Kind == Finish<T>::kGate;
    for (index row = 0; row < height;) {
        const int rows = tile_rows(height - row);
        for_each_panel<Lanes>(columns, [&](index column, int vectors) {
            const int width = vectors * Lanes;
            Term<T> terms[2];
            for (int t = 0; t < count; ++t) {
                const Factor<T>& f = factors[t];
                terms[t] = {f.a + (gates ? row : row * f.a_stride), f.a_stride,
                            f.b.at(f.first, column, width), width, f.length};
            }
            Finish<T> here = finish;
            here.c = c.at(c_row + row, column, width);
            if (start.values.data) here.start = start.values.at(start.row + row, column, width);
            if (gates) {
                here.gate = gate.values.at(gate.row + row, column, width);
            } else {
                here.scale += row, here.shift += row;
            }
            batchwise_tile<T, Lanes, Kind>(TileSizes(), rows, vectors, terms, count, here);
        });
        row += rows;
    }
}

// c (+)= a b, for `a_rows` rows of `a` from `a_row` on, whose columns are the `rows` rows of b: a
// weight gradient, with the batch along the vectors on its left side.
template <class T, int BatchLanes, int Lanes>
void batch_product(const Panels<T>& a, index a_row, index a_rows, const Right<T>& b, index rows,
                   index columns, T* c, index stride, bool add) {
    alignas(64) T sums[kTileRows * kTileVectors * Lanes];
    Finish<T> finish{c, stride};
    if (add) finish.start = c, finish.start_stride = stride;
    for (index j = 0; j < a_rows;) {
        const int height = tile_rows(a_rows - j);
        for_each_panel<Lanes>(columns, [&](index column, int vectors) {
            Term<T> terms[kMaxTerms];
            int count = 0;
            for_each_panel<BatchLanes>(rows, [&](index first, int batch_vectors) {
                const int width = batch_vectors * BatchLanes;
                Term<T>& term = terms[count++];
                term.a = a.at(a_row + j, first, width), term.a_stride = width;
                term.length = rows - first < width ? rows - first : width;
                b.take(first, rows, column, vectors * Lanes, term);
            });
            if (column + vectors * Lanes <= columns) {
                tile_in_place<T, Lanes, false>(TileSizes(), height, vectors, terms, count,
                                               c + j * stride + column, stride, add);
                return;
            }
            tile<T, Lanes, false>(height, vectors, terms, count, sums);
            finish_tile<T, Lanes>(finish, sums, height, vectors, j, column, columns);
        });
        j += height;
    }
}

// sums[j] (+)= sum over the batch of row a_row + j.
template <class T, int Lanes>
void batch_sum(const Panels<T>& a, index a_row, index a_rows, index rows, T* sums, bool add) {
    using V = Vector<T, Lanes>;
    for (index j = 0; j < a_rows; ++j) {
        V sum = {};
        for_each_panel<Lanes>(rows, [&](index first, int vectors) {
            const T* row = a.at(a_row + j, first, vectors * Lanes);
            for (int v = 0; v < vectors; ++v) {
                sum += load_first<V>(row + v * Lanes, rows - first - v * Lanes);
            }
        });
        sums[j] = (add ? sums[j] : T(0)) + lanes_sum<T, Lanes>(sum);
    }
}

// c[n, j] = panels[j, n]
template <class T, int Lanes>
void unpack_transposed(const Panels<T>& panels, index columns, T* c, index stride) {
    constexpr int piece = kPiece<T>;
    using V = Vector<T, Lanes>;
    using Part = Vector<T, piece>;
    for_each_panel<Lanes>(columns, [&](index column, int vectors) {
        const int width = vectors * Lanes;
        for (index n = column; n < columns && n < column + width; n += Lanes) {
            const T* const from = panels.at(0, column, width) + n - column;
            const auto square = [&](index j, auto store_part) __attribute__((always_inline)) {
                V v[piece];
                for (int i = 0; i < piece; ++i) {
                    v[i] = j + i < panels.height ? load<V>(from + (j + i) * width) : V{};
                }
                transpose_pieces<T, Lanes>(v);
                for (int i = 0; i < piece; ++i) {
                    split_pieces<T, Lanes>(
                        v[i], [&](int p, Part part) { store_part(n + p * piece + i, part); },
                        Pieces<T, Lanes>());
                }
            };
            index j = 0;
            for (; n + Lanes <= columns && j + piece <= panels.height; j += piece) {
                square(j, [&](index row, Part part) { store(c + row * stride + j, part); });
            }
            for (; j < panels.height; j += piece) {
                square(j, [&](index row, Part part) {
                    if (row < columns) store_first(c + row * stride + j, part, panels.height - j);
                });
            }
        }
    });
}

// Rows per block: two panels, so that a strip of weights is read once for both, and few enough for
// x and the hidden outputs to stay in the L2 cache; fewer if that gives every thread a block; those
// of backward, if it reads what is left here.
template <class T>
inline index batchwise_rows(const Spine<T>& s, int threads) {
    if (s.hidden_panels) return kBackwardRows;  // where they are looked for
    constexpr index most = 2 * kTileVectors * kWide<T>;
    const index share = round_up((s.rows + threads - 1) / threads, kWide<T>);
    return share < most ? share : most;
}

// Columns of a product with the neurons along the vectors, padded.
template <class T>
inline index padded_columns(index columns) {
    return round_up(columns, use_wide<T>(columns) ? kWide<T> : kNarrow<T>);
}

// Slices shorter than this are not projected ahead: keeping the sums would cost more than the
// products.
constexpr index kGroupLength = 16;

// Whether, with the neurons along the vectors, layers that share a slice are projected together.
template <class T>
bool grouping_pays(const Spine<T>& s) {
    const index count = members(s, 0);
    const bool thin = padded_columns<T>(s.width) < kTileVectors * kWide<T>;
    return count > 1 && s.splits <= s.layers && s.layer[0].size >= kGroupLength &&
           (thin || padded_columns<T>(count * s.width) < count * padded_columns<T>(s.width));
}

// Multiply-accumulates per row that padding adds to the products with the slices.
template <class T>
double padding_per_row(const Spine<T>& s) {
    double macs = 0;
    const bool grouped = grouping_pays(s);
    for (index l = 0; l < s.layers; ++l) {
        const index count = grouped ? members(s, l % s.splits) : 1, columns = count * s.width;
        const double padding = static_cast<double>(padded_columns<T>(columns) - columns);
        macs += padding / static_cast<double>(count) * static_cast<double>(s.layer[l].size);
    }
    return macs;
}

// The choice between both layouts, in multiply-accumulates of one lane (as many as would take the
// same time), fitted to timings of some twenty chains of all proportions at 1 to 4096 rows.
//
// Along the neurons widths are padded, every weight is copied into a panel once per call, and every
// layer costs a row its start, the vectors of its results, and more if the last one is not full:
// what is stored in part has to be loaded again by the next layer. Along the batch there are
// numbers to transpose. That hidden outputs are too, if they are wanted, is left out, up to 5 % of
// forward: so inference and training choose alike and round alike.
constexpr double kPackWeight = 8;
constexpr double kStartLayer = 220, kFinishVector = 150, kFinishPart = 600;
constexpr double kTranspose = 9, kFinishBatchwise = 8;
// A panel of x of more bytes is written past the L1 cache.
constexpr double kTransposeFar = 12;
constexpr index kNearBytes = 64 << 10;

template <class T>
bool batchwise_pays(const Spine<T>& s) {
    if (s.x_rows) return true;  // so it was decided
    const index hidden = s.layers * s.width;
    const index vectors = round_up(s.width, kNarrow<T>) / kNarrow<T>;
    const double part = s.width % kNarrow<T> ? kFinishPart : 0;
    const double row = kStartLayer + kFinishVector * vectors + part;
    const double neurons_row = s.layers * row + padding_per_row(s);
    const index panel = s.features * kTileVectors * kWide<T> * static_cast<index>(sizeof(T));
    const double transpose = panel <= kNearBytes ? kTranspose : kTransposeFar;
    const double batchwise_row = transpose * s.features + kFinishBatchwise * hidden;
    return s.rows * batchwise_row < s.rows * neurons_row + kPackWeight * macs_per_row(s);
}

// Where the hidden outputs of the rows from `first` on go: what backward reads, or scratch memory.
template <class T>
Panels<T> hidden_panels(const Spine<T>& s, const Buffer<T>& scratch, index first) {
    const index height = s.layers * s.width;
    return {s.hidden_panels ? s.hidden_panels + first * height : scratch.data(), height};
}

// What follows the last hidden layer: the output row, and everything that leaves the kernel.
template <class T, int Lanes, class Affine>
void finish_batchwise_forward(const Spine<T>& s, const Affine& affine, const Panels<T>& hidden,
                              index first, index rows) {
    const index height = hidden.height;
    if (s.hidden) {
        unpack_transposed<T, Lanes>(hidden, rows, s.hidden + first * height, height);
    }
    if (!s.outputs) return;
    const Buffer<T> values(s.logits_panels ? 0 : s.outputs * round_up(rows, Lanes));
    const Panels<T> logits{s.logits_panels ? s.logits_panels + first * s.outputs : values.data(),
                           s.outputs};
    const Factor<T> factor{s.out_weight, s.out_stride, hidden, 0, height};
    Finish<T> finish{};
    affine.apply(s, s.layers, finish);
    batchwise_product<T, Lanes>(&factor, 1, s.outputs, rows, logits, 0, finish);
    if (s.logits_panels) return;
    unpack_transposed<T, Lanes>(logits, rows, s.logits + first * s.outputs, s.outputs);
}

// Weights up to this size stay in the L2 cache.
constexpr double kWeightBytes = 256 << 10;

template <class T, int Lanes, class Affine>
void forward_batchwise(const Spine<T>& s, const Affine& affine, index first, index rows) {
    const index height = s.layers * s.width;
    const Buffer<T> values(s.hidden_panels ? 0 : height * round_up(rows, Lanes));
    const Panels<T> hidden = hidden_panels(s, values, first);
    // All layers for the rows from `column` on.
    const auto all_layers = [&](index column, index columns, const Buffer<T>& transposed) {
        const Panels<T> x{transposed.data(), s.features}, outputs = hidden.from(column);
        transpose_into<T, Lanes>(
            x.data, [&](index n) { return x_row(s, first + column + n); }, s.features, columns);
        for (index l = 0; l < s.layers; ++l) {
            const Layer<T>& layer = s.layer[l];
            const Factor<T> factors[] = {
                {layer.weight, layer.stride, x, layer.offset, layer.size},
                {is_chained(s, l) ? chained(s, l) : nullptr, layer.stride, outputs,
                 (l - 1) * s.width, s.width}};
            Finish<T> finish{};
            affine.apply(s, l, finish);
            batchwise_product<T, Lanes>(factors, is_chained(s, l) ? 2 : 1, s.width, columns,
                                        outputs, l * s.width, finish);
        }
    };
    if (macs_per_row(s) * sizeof(T) <= kWeightBytes) {
        // Weights that come from the L2 cache are read again for every panel, but a panel of x is
        // written, and goes through all layers, in the L1 cache.
        const Buffer<T> transposed(s.features * kTileVectors * Lanes);
        for_each_panel<Lanes>(rows, [&](index column, int vectors) {
            const index left = rows - column, width = vectors * Lanes;
            all_layers(column, left < width ? left : width, transposed);
        });
    } else {
        all_layers(0, rows, Buffer<T>(s.features * round_up(rows, Lanes)));
    }
    finish_batchwise_forward<T, Lanes>(s, affine, hidden, first, rows);
}

// Forward of `rows` rows from `first` on.
template <class T, class Affine>
void forward_batchwise(const Spine<T>& s, const Affine& affine, index first, index rows) {
    use_wide<T>(rows) ? forward_batchwise<T, kWide<T>>(s, affine, first, rows)
                      : forward_batchwise<T, kNarrow<T>>(s, affine, first, rows);
}

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
