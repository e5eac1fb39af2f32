// The backward pass, in two phases:
//
//   rows     for each block: the gradients of the hidden layers, last to first, and of x
//   weights  for each panel of a weight gradient: the sum over all blocks, in order
//
// so that no two threads add to the same number and the result is the same for any number of
// threads, bit by bit. With one thread the phases alternate block by block, the data still in the
// caches; the order of additions, and so the result, is again the same.

#pragma once

#include <vector>

#include "batchwise.h"
#include "blocks.h"
#include "dropout.h"
#include "product.h"

namespace spinalnet {
namespace SPINAL_ARCH {

// From this many rows on, backward copies whole operands instead of padded last panels. Weights of
// megabytes cost more to copy than 64 rows cost to compute: fresh memory has to be mapped first.
constexpr index kPackRows = 512;

// Up to this width the gradients of the hidden layers are found with the batch along the vectors.
constexpr index kNarrowGradients = 64;

// Weights up to this size stay in the L2 cache while the gradient of x is written past them.
constexpr double kStreamBytes = 512 << 10;

// The weights of a backward pass as operands; rows of W_l and C already run the right way.
template <class T>
class BackwardSpine {
public:
    // Without `hidden` only what the gradient of x takes.
    explicit BackwardSpine(const Spine<T>& s, bool hidden = true) {
        const bool copy = s.rows >= kPackRows;
        chain.reserve(s.layers);
        output.reserve(s.layers);
        slices.reserve(s.layers);
        for (index l = 0; l < s.layers; ++l) {
            const Layer<T>& layer = s.layer[l];
            chain.push_back(hidden && is_chained(s, l)
                                ? pack_rows(chained(s, l), layer.stride, s.width, s.width, copy)
                                : Operand<T>());
            output.push_back(hidden && s.logits_grad
                                 ? pack_rows(s.out_weight + l * s.width, s.out_stride, s.outputs,
                                             s.width, copy)
                                 : Operand<T>());
            slices.push_back(s.x_grad ? pack_rows(layer.weight, layer.stride, s.width, layer.size,
                                                  copy)
                                      : Operand<T>());
        }
    }

    std::vector<Operand<T>> chain, output, slices;
};

template <class T>
inline index block_count(const Spine<T>& s) {
    return (s.rows + kBackwardRows - 1) / kBackwardRows;
}

template <class T>
inline index block_rows(const Spine<T>& s, index block) {
    const index left = s.rows - block * kBackwardRows;
    return left < kBackwardRows ? left : kBackwardRows;
}

// Whether the gradients of the hidden layers are found with the batch along the vectors: layers
// that would mostly fill them with nothing, or that are so narrow that a tile is more overhead than
// multiplications.
template <class T>
inline bool gradients_batchwise(const Spine<T>& s) {
    if (s.hidden_panels) return true;  // so it was decided
    return s.width <= kNarrowGradients && block_rows(s, 0) > kNarrow<T> / 2;
}

// The gradient of x for `rows` rows from `first` on, from that of their sums z.
template <class T>
void input_gradient(const Spine<T>& s, const BackwardSpine<T>& weights, const T* sums_grad,
                    index first, index rows) {
    const index hidden_stride = s.layers * s.width;
    for (index split = 0; split < s.splits && split < s.layers; ++split) {
        const Layer<T>& slice = s.layer[split];
        Finish<T> finish{s.x_grad + first * s.features + slice.offset, s.features};
        Product<T> products[kMaxTerms];
        int count = 0;
        const double bytes = 1.0 * members(s, split) * s.width * slice.size * sizeof(T);
        const Keep keep = bytes <= kStreamBytes ? Keep::kRows : Keep::kPanel;
        for (index l = split; l < s.layers; l += s.splits) {
            products[count++] = {sums_grad + l * s.width, hidden_stride, &weights.slices[l],
                                 s.width};
            if (count == kMaxTerms || l + s.splits >= s.layers) {
                rows_product(products, count, rows, slice.size, finish, keep);
                finish.start = finish.c, finish.start_stride = finish.stride;
                count = 0;
            }
        }
    }
}

// What phase 2 reads of a block: the gradients of its sums z, layer by layer, then the logits'.
template <class T>
void cut_strips(const Spine<T>& s, const T* sums_grad, index block, T* strips) {
    const index hidden_stride = s.layers * s.width, rows = block_rows(s, block);
    for (index l = 0; l < s.layers; ++l) {
        interleave(sums_grad + l * s.width, hidden_stride, rows, s.width,
                   strips + rows * l * s.width);
    }
    if (s.logits_grad) {
        interleave(s.logits_grad + block * kBackwardRows * s.logits_grad_stride,
                   s.logits_grad_stride, rows, s.outputs, strips + rows * hidden_stride);
    }
}

// The gradient of the sums z of one layer, from those of the next one and of the logits.
template <class T>
void sums_gradient(const Spine<T>& s, const BackwardSpine<T>& weights, index l, index first,
                   index rows, T* sums_grad) {
    const index hidden_stride = s.layers * s.width;
    Finish<T> finish{sums_grad + l * s.width, hidden_stride};
    if (s.hidden_grad) {
        finish.start = s.hidden_grad + first * s.hidden_grad_stride + l * s.width;
        finish.start_stride = s.hidden_grad_stride;
    }
    finish.kind = Finish<T>::kGate;
    finish.gate = s.hidden + first * hidden_stride + l * s.width;
    finish.gate_stride = hidden_stride;
    finish.slope = s.slope;
    Product<T> products[2];
    int count = 0;
    if (s.logits_grad) {
        products[count++] = {s.logits_grad + first * s.logits_grad_stride, s.logits_grad_stride,
                             &weights.output[l], s.outputs};
    }
    if (is_chained(s, l + 1)) {
        products[count++] = {finish.c + s.width, hidden_stride, &weights.chain[l + 1], s.width};
    }
    rows_product(products, count, rows, s.width, finish);
}

// What phase 2 reads of a block: the gradients of its sums z, layer by layer, and of the logits.
// Either strips (`interleave`), or, batchwise, both as panels with a column per row.
template <class T>
struct BlockGradients {
    T* values;
    index first, rows;
    bool batchwise;

    // Numbers of a block of at most `rows` rows.
    static index size(const Spine<T>& s, index rows) {
        return (s.layers * s.width + s.outputs) * round_up(rows, kWide<T>);
    }
    Panels<T> of_sums(const Spine<T>& s) const { return {values, s.layers * s.width}; }
    Panels<T> of_logits(const Spine<T>& s) const {
        if (s.logits_panels) return {s.logits_panels + first * s.outputs, s.outputs};
        const index padded = round_up(rows, use_wide<T>(rows) ? kWide<T> : kNarrow<T>);
        return {values + s.layers * s.width * padded, s.outputs};
    }
    const T* strip(index column) const { return values + rows * column; }
};

// The gradients of the sums z of all layers for `rows` rows from `first` on, with the batch along
// the vectors: the weights are the transposed left side, read where they lie. `sums_grad`: the same
// row by row; null: not wanted.
template <class T, int Lanes>
void sums_gradients_batchwise(const Spine<T>& s, const BlockGradients<T>& found, T* sums_grad) {
    const index height = s.layers * s.width, first = found.first, rows = found.rows;
    const auto rows_of = [&](const T* values, index stride) {
        return [=](index n) { return values + (first + n) * stride; };
    };
    Operand<T> hidden, start;
    if (!s.hidden_panels) {
        hidden = pack_transposed<T, Lanes>(rows_of(s.hidden, height), height, rows);
    }
    const Panels<T> outputs{s.hidden_panels ? s.hidden_panels + first * height
                                            : hidden.packed.data(), height};
    if (s.hidden_grad) {
        start = pack_transposed<T, Lanes>(rows_of(s.hidden_grad, s.hidden_grad_stride), height,
                                          rows);
    }
    const Panels<T> gradients = found.of_sums(s), logits = found.of_logits(s);
    if (s.logits_grad && !s.logits_panels) {
        transpose_into<T, Lanes>(logits.data, rows_of(s.logits_grad, s.logits_grad_stride),
                                 s.outputs, rows);
    }
    Finish<T> finish{};
    finish.slope = s.slope;
    for (index l = s.layers - 1; l >= 0; --l) {
        Factor<T> factors[2];
        int count = 0;
        if (s.logits_grad) {
            factors[count++] = {s.out_weight + l * s.width, s.out_stride, logits, 0, s.outputs};
        }
        if (is_chained(s, l + 1)) {
            factors[count++] = {chained(s, l + 1), s.layer[l + 1].stride, gradients,
                                (l + 1) * s.width, s.width};
        }
        batchwise_product<T, Lanes, Finish<T>::kGate>(
            factors, count, s.width, rows, gradients, l * s.width, finish,
            {{start.packed.data(), height}, l * s.width},
            {outputs, l * s.width});
    }
    if (sums_grad) unpack_transposed<T, Lanes>(gradients, rows, sums_grad, height);
}

// Phase 1: the gradients of the sums z of every layer, as phase 2 reads them, and of x.
template <class T>
void backward_rows(const Spine<T>& s, const BackwardSpine<T>& weights, index block,
                   const BlockGradients<T>& found) {
    const index hidden_stride = s.layers * s.width;
    const index first = found.first, rows = found.rows;
    const Buffer<T> sums_grad(found.batchwise && !s.x_grad ? 0 : rows * hidden_stride);
    if (!found.batchwise) {
        for (index l = s.layers - 1; l >= 0; --l) {
            sums_gradient(s, weights, l, first, rows, sums_grad.data());
        }
    } else if (use_wide<T>(rows)) {
        sums_gradients_batchwise<T, kWide<T>>(s, found, sums_grad.data());
    } else {
        sums_gradients_batchwise<T, kNarrow<T>>(s, found, sums_grad.data());
    }
    if (s.x_grad) input_gradient(s, weights, sums_grad.data(), first, rows);
    if (s.wants_weights && !found.batchwise) {
        cut_strips(s, sums_grad.data(), block, found.values);
    }
}

// What phase 2 hands out: neighbouring columns of what layers see, and every weight gradient they
// are a factor of.
struct Panel {
    enum Kind {
        kSlice,   // columns of slice `layer`, for all layers that see it
        kChain,   // of the outputs of `layer`, for the next one
        kInput,   // of all that `layer` sees, its slice and the layer before it
        kHidden,  // of the outputs of `layer`, for the output row
        kOutput,  // of the outputs of all layers, for the output row
    } kind;
    index layer, column, columns;
    bool wide;
};

// Widest kInput: 128 rows of it, 32 KiB, have to stay in the L1 cache.
template <class T>
constexpr index kInputColumns = 256 / sizeof(T);

// Whether the weight gradient of layer l is one product, of its slice and the layer before it side
// by side: a short slice would not fill its vectors.
template <class T>
bool is_joint(const Spine<T>& s, const Dropout<T>& dropout, index l) {
    const Layer<T>& layer = s.layer[l];
    const auto vectors = [](index columns) {
        const index lanes = use_wide<T>(columns) ? kWide<T> : kNarrow<T>;
        return round_up(columns, lanes) / lanes;
    };
    const index columns = layer.size + s.width;
    return is_chained(s, l) && !dropout.drops_inputs() && layer.columns == columns &&
           round_up(columns, kWide<T>) <= kInputColumns<T> &&
           vectors(columns) < vectors(layer.size) + vectors(s.width);
}

template <class T>
std::vector<Panel> weight_panels(const Spine<T>& s, const Dropout<T>& dropout) {
    std::vector<Panel> panels;
    const auto add = [&](Panel::Kind kind, index layer, index columns) {
        const bool wide = use_wide<T>(columns);
        const index panel = kTileVectors * (wide ? kWide<T> : kNarrow<T>);
        const index most = kind == Panel::kInput ? columns
                                                 : kBackwardRows / block_rows(s, 0) * panel;
        for (index column = 0; column < columns; column += most) {
            const index left = columns - column;
            panels.push_back({kind, layer, column, left < most ? left : most, wide});
        }
    };
    for (index split = 0; split < s.splits && split < s.layers; ++split) {
        bool alone = false;  // somebody sees the slice by itself
        for (index l = split; l < s.layers; l += s.splits) alone |= !is_joint(s, dropout, l);
        if (alone) add(Panel::kSlice, split, s.layer[split].size);
    }
    for (index l = 0; l < s.layers; ++l) {
        if (is_joint(s, dropout, l)) {
            add(Panel::kInput, l, s.layer[l].size + s.width);
        } else if (is_chained(s, l)) {
            add(Panel::kChain, l - 1, s.width);
        }
        if (s.logits_grad && dropout.drops_hidden()) add(Panel::kHidden, l, s.width);
    }
    if (s.logits_grad && !dropout.drops_hidden()) add(Panel::kOutput, 0, s.layers * s.width);
    return panels;
}

// Rows of neighbouring numbers, copied into panels or, if they fill whole vectors and lie well,
// used where they are.
template <class T, int Lanes>
class PanelRows {
public:
    // Columns from `source` on, one row behind the other or those that `chosen` tells.
    PanelRows(const T* source, index stride, const Panel& panel, index rows,
              const std::int64_t* chosen = nullptr)
        : source_(source + panel.column),
          stride_(stride),
          panel_(panel),
          rows_(rows),
          chosen_(chosen) {}

    // Make them what `mask` keeps.
    void take(const Mask<T>& mask) {
        if (as_it_is_ && !mask.words) return;
        as_it_is_ = !mask.words;
        // Rows of 1 KiB or its multiples would share few sets of the L1 cache.
        if (as_it_is_ && !chosen_ && panel_.columns % Lanes == 0 &&
            stride_ * sizeof(T) % 1024 != 0) {
            right = {source_, stride_};
            return;
        }
        right = {copy_, 0};
        for_each_panel<Lanes>(panel_.columns, [&](index column, int vectors) {
            for (index n = 0; n < rows_; ++n) {
                const T* const row = source_ + (chosen_ ? chosen_[n] : n) * stride_;
                T* const to = copy_ + rows_ * column + n * vectors * Lanes;
                if (!mask.words && column + vectors * Lanes <= panel_.columns) {
                    for (int v = 0; v < vectors; ++v) {
                        store(to + v * Lanes, load<Vector<T, Lanes>>(row + column + v * Lanes));
                    }
                    continue;
                }
                for (int v = 0; v < vectors; ++v) {
                    const index at = column + v * Lanes;
                    auto numbers = load_first<Vector<T, Lanes>>(row + at, panel_.columns - at);
                    if (mask.words) {
                        numbers = masked<T, Lanes>(numbers, mask.words + n * mask.stride,
                                                   panel_.column + at, mask.scale);
                    }
                    store(to + v * Lanes, numbers);
                }
            }
        });
    }

    // Make them the rows of `slice`, each with what follows beside it.
    template <class Slice>
    void join(Slice slice, index size) {
        using V = Vector<T, Lanes>;
        const index length = round_up(panel_.columns, Lanes);
        right = {copy_, length};
        for (index n = 0; n < rows_; ++n) {
            T* row = copy_ + n * length;
            store(row + length - Lanes, V{});
            // Past the end of a row begins the next one, which is written later.
            const T* chain = source_ + n * stride_;
            const index columns = panel_.columns - size;
            for (index j = 0; j < columns; j += Lanes) {
                store(row + size + j, load_first<V>(chain + j, columns - j));
            }
            const T* const beside = slice(n);
            for (index k = 0; k < size; ++k) row[k] = beside[k];
        }
    }

    Right<T> right{};

private:
    const T* source_;
    index stride_;
    const Panel& panel_;
    index rows_;
    const std::int64_t* chosen_;
    bool as_it_is_ = false;  // nothing dropped, good for every user
    static constexpr index kPanel = kTileVectors * Lanes;
    alignas(64) T copy_[kBackwardRows * (kPanel > kInputColumns<T> ? kPanel : kInputColumns<T>) +
                        Lanes];
};

template <class T, int Lanes>
void panel_gradients(const Spine<T>& s, const Dropout<T>& dropout, const Panel& panel, index block,
                     const BlockGradients<T>& gradients) {
    const index hidden_stride = s.layers * s.width;
    const index first = gradients.first, rows = gradients.rows;
    const T* const hidden = s.hidden + first * hidden_stride;
    const Layer<T>& layer = s.layer[panel.layer];
    const auto multiply = [&](const PanelRows<T, Lanes>& b, const Panels<T>& a, index a_row,
                              index strip, index height, T* c, index stride, bool shared) {
        const bool add = shared || block > 0 || s.accumulates;
        c += panel.column;
        if (!gradients.batchwise) {
            columns_product<T, Lanes>(gradients.strip(strip), height, b.right, rows, panel.columns,
                                      c, stride, add);
        } else if (use_wide<T>(rows)) {
            batch_product<T, kWide<T>, Lanes>(a, a_row, height, b.right, rows, panel.columns, c,
                                              stride, add);
        } else {
            batch_product<T, kNarrow<T>, Lanes>(a, a_row, height, b.right, rows, panel.columns, c,
                                                stride, add);
        }
    };
    const auto add_to_layer = [&](const PanelRows<T, Lanes>& b, index l, index column) {
        const Layer<T>& user = s.layer[l];
        multiply(b, gradients.of_sums(s), l * s.width, l * s.width, s.width,
                 user.weight_grad + column, user.columns, user.shared);
    };
    if (panel.kind == Panel::kSlice) {
        const std::int64_t* const chosen = s.x_rows ? s.x_rows + first : nullptr;
        PanelRows<T, Lanes> b(s.x + (chosen ? 0 : first * s.x_stride) + layer.offset, s.x_stride,
                              panel, rows, chosen);
        for (index l = panel.layer; l < s.layers; l += s.splits) {
            if (is_joint(s, dropout, l)) continue;
            b.take(dropout.slice(l, first));
            add_to_layer(b, l, 0);
        }
    } else if (panel.kind == Panel::kInput) {
        PanelRows<T, Lanes> b(hidden + (panel.layer - 1) * s.width, hidden_stride, panel, rows);
        b.join([&](index n) { return x_row(s, first + n) + layer.offset; }, layer.size);
        add_to_layer(b, panel.layer, 0);
    } else if (panel.kind == Panel::kChain) {
        const index user = panel.layer + 1;
        PanelRows<T, Lanes> b(hidden + panel.layer * s.width, hidden_stride, panel, rows);
        b.take(dropout.chain(user, first));
        add_to_layer(b, user, s.layer[user].columns - s.width);
    } else {
        const index l = panel.kind == Panel::kHidden ? panel.layer : 0;
        PanelRows<T, Lanes> b(hidden + l * s.width, hidden_stride, panel, rows);
        b.take(panel.kind == Panel::kHidden ? dropout.output(l, first) : Mask<T>{});
        multiply(b, gradients.of_logits(s), 0, hidden_stride, s.outputs,
                 s.out_weight_grad + l * s.width, hidden_stride, false);
    }
}

template <class T>
void bias_gradients(const Spine<T>& s, index block, const BlockGradients<T>& gradients) {
    const index rows = gradients.rows;
    const auto sum = [&](const Panels<T>& a, index a_row, index strip, index count, T* sums,
                         bool add) {
        if (!gradients.batchwise) {
            columns_sum(gradients.strip(strip), count, rows, sums, add);
        } else if (use_wide<T>(rows)) {
            batch_sum<T, kWide<T>>(a, a_row, count, rows, sums, add);
        } else {
            batch_sum<T, kNarrow<T>>(a, a_row, count, rows, sums, add);
        }
    };
    for (index l = 0; l < s.layers; ++l) {
        const Layer<T>& layer = s.layer[l];
        if (layer.bias_grad) {
            sum(gradients.of_sums(s), l * s.width, l * s.width, s.width, layer.bias_grad,
                layer.shared || block > 0 || s.accumulates);
        }
    }
    if (s.out_bias_grad && s.logits_grad) {
        sum(gradients.of_logits(s), 0, s.layers * s.width, s.outputs, s.out_bias_grad,
            block > 0 || s.accumulates);
    }
}

template <class T>
void zero(T* values, index count) {
    if (values) std::memset(values, 0, count * sizeof(T));
}

// Gradients that no block sets: those that layers share, all of them without rows, and those of
// slices that no layer sees.
template <class T>
void clear(const Spine<T>& s) {
    if (s.accumulates) return;
    for (index l = 0; s.wants_weights && l < s.layers; ++l) {
        const Layer<T>& layer = s.layer[l];
        if (layer.shared || s.rows == 0) {
            zero(layer.weight_grad, s.width * layer.columns);
            zero(layer.bias_grad, s.width);
        }
    }
    if (s.wants_weights && s.outputs && (s.rows == 0 || !s.logits_grad)) {
        zero(s.out_weight_grad, s.outputs * s.layers * s.width);
        zero(s.out_bias_grad, s.outputs);
    }
    if (s.layers < s.splits) zero(s.x_grad, s.rows * s.features);
}

// Phase 2.
template <class T>
class WeightGradients {
public:
    WeightGradients(const Spine<T>& s, const Dropout<T>& dropout, bool batchwise)
        : s_(s), dropout_(dropout), batchwise_(batchwise) {
        if (s.wants_weights) panels_ = weight_panels(s, dropout);
        for (index l = 0; l < s.layers; ++l) shared_ = shared_ || s.layer[l].shared;
    }

    // Numbers that the gradients of a block take, at most.
    index block_size() const {
        return s_.wants_weights || batchwise_ ? BlockGradients<T>::size(s_, block_rows(s_, 0)) : 0;
    }
    BlockGradients<T> gradients(index block, T* values) const {
        return {values, block * kBackwardRows, block_rows(s_, block), batchwise_};
    }

    // What one block adds.
    void add(index block, const BlockGradients<T>& gradients) const {
        for (const Panel& panel : panels_) add(panel, block, gradients);
        bias_gradients(s_, block, gradients);
    }

    // What all blocks add, given the gradients of each one behind the other.
    void add_all(int threads, index blocks, T* values) const {
        const auto of = [&](index block) {
            return gradients(block, values + block * block_size());
        };
        if (shared_) {
            // Panels of different slices add to the same columns of a shared matrix: blocks in
            // order.
            for (index b = 0; b < blocks; ++b) add(b, of(b));
            return;
        }
        const auto panel_phase = [&](index part) {
            for (index b = 0; b < blocks; ++b) {
                part ? add(panels_[part - 1], b, of(b)) : bias_gradients(s_, b, of(b));
            }
        };
        run(threads, static_cast<index>(panels_.size()) + 1, panel_phase);
    }

private:
    void add(const Panel& panel, index block, const BlockGradients<T>& gradients) const {
        panel.wide ? panel_gradients<T, kWide<T>>(s_, dropout_, panel, block, gradients)
                   : panel_gradients<T, kNarrow<T>>(s_, dropout_, panel, block, gradients);
    }

    const Spine<T>& s_;
    const Dropout<T>& dropout_;
    const bool batchwise_;
    std::vector<Panel> panels_;
    bool shared_ = false;
};

// Phase 1 by `rows_phase(block, gradients)`, then phase 2; with one thread block by block.
template <class T, class RowsPhase>
void both_phases(const Spine<T>& s, int threads, const WeightGradients<T>& weights,
                 const RowsPhase& rows_phase) {
    const index blocks = block_count(s), size = weights.block_size();
    if (threads <= 1) {
        const Buffer<T> values(size);
        for (index block = 0; block < blocks; ++block) {
            const BlockGradients<T> gradients = weights.gradients(block, values.data());
            rows_phase(block, gradients);
            if (s.wants_weights) weights.add(block, gradients);
        }
        return;
    }
    const Buffer<T> values(blocks * size);
    run(threads, blocks, [&](index block) {
        rows_phase(block, weights.gradients(block, values.data() + block * size));
    });
    if (s.wants_weights) weights.add_all(threads, blocks, values.data());
}

template <class T>
void backward(const Spine<T>& s) {
    clear(s);
    if (s.rows == 0) return;
    const bool batchwise = gradients_batchwise(s);
    const BackwardSpine<T> weights(s, !batchwise);
    const Dropout<T> nothing;
    const WeightGradients<T> weights_phase(s, nothing, batchwise);
    both_phases(s, useful_threads(s, 2), weights_phase,
                [&](index block, const BlockGradients<T>& gradients) {
                    backward_rows(s, weights, block, gradients);
                });
}

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
