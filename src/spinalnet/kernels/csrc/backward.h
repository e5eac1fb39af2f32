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

#include "blocks.h"
#include "dropout.h"
#include "product.h"

namespace spinalnet {
namespace SPINAL_ARCH {

// Rows per block: the panel of x or hidden outputs that a weight gradient multiplies, 128 rows x 3
// vectors = 24 KiB, has to stay in the L1 cache. Of fewer rows as many panels do, and a gradient is
// written in longer pieces.
constexpr index kBackwardRows = 128;

// From this many rows on, backward copies whole operands instead of padded last panels. Weights of
// megabytes cost more to copy than 64 rows cost to compute: fresh memory has to be mapped first.
constexpr index kPackRows = 512;

// Weights up to this size stay in the L2 cache while the gradient of x is written past them.
constexpr double kStreamBytes = 512 << 10;

// The weights of a backward pass as operands; rows of W_l and C already run the right way.
template <class T>
class BackwardSpine {
public:
    explicit BackwardSpine(const Spine<T>& s) {
        const bool copy = s.rows >= kPackRows;
        chain.reserve(s.layers);
        output.reserve(s.layers);
        slices.reserve(s.layers);
        for (index l = 0; l < s.layers; ++l) {
            const Layer<T>& layer = s.layer[l];
            chain.push_back(is_chained(s, l)
                                ? pack_rows(chained(s, l), layer.stride, s.width, s.width, copy)
                                : Operand<T>());
            output.push_back(s.logits_grad ? pack_rows(s.out_weight + l * s.width, s.out_stride,
                                                       s.outputs, s.width, copy)
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

// Phase 1: the gradients of the sums z of every layer, as strips, and of x.
template <class T>
void backward_rows(const Spine<T>& s, const BackwardSpine<T>& weights, index block, T* strips) {
    const index hidden_stride = s.layers * s.width;
    const index first = block * kBackwardRows, rows = block_rows(s, block);
    Buffer<T> sums_grad(rows * hidden_stride);
    for (index l = s.layers - 1; l >= 0; --l) {
        sums_gradient(s, weights, l, first, rows, sums_grad.data());
    }
    if (s.x_grad) input_gradient(s, weights, sums_grad.data(), first, rows);
    if (s.wants_weights) cut_strips(s, sums_grad.data(), block, strips);
}

// What phase 2 hands out: neighbouring columns of x or of the hidden outputs, and every weight
// gradient they are a factor of.
struct Panel {
    index split, layer;  // columns of slice `split`, or (split < 0) of the outputs of `layer`
    index column, columns;
    bool wide;
};

template <class T>
std::vector<Panel> weight_panels(const Spine<T>& s) {
    std::vector<Panel> panels;
    const auto add = [&](index split, index layer, index columns) {
        const bool wide = use_wide<T>(columns);
        const index panel = kTileVectors * (wide ? kWide<T> : kNarrow<T>);
        const index most = kBackwardRows / block_rows(s, 0) * panel;
        for (index column = 0; column < columns; column += most) {
            const index left = columns - column;
            panels.push_back({split, layer, column, left < most ? left : most, wide});
        }
    };
    for (index split = 0; split < s.splits && split < s.layers; ++split) {
        add(split, split, s.layer[split].size);
    }
    for (index l = 0; l < s.layers; ++l) {
        if (is_chained(s, l + 1) || s.logits_grad) add(-1, l, s.width);
    }
    return panels;
}

template <class T, int Lanes>
void panel_gradients(const Spine<T>& s, const Dropout<T>& dropout, const Panel& panel, index block,
                     const T* strips) {
    using V = Vector<T, Lanes>;
    const index hidden_stride = s.layers * s.width;
    const index first = block * kBackwardRows, rows = block_rows(s, block);
    const bool of_x = panel.split >= 0;
    const Layer<T>& layer = s.layer[panel.layer];
    const T* source = of_x ? s.x + first * s.x_stride + layer.offset
                           : s.hidden + first * hidden_stride + panel.layer * s.width;
    source += panel.column;
    const index stride = of_x ? s.x_stride : hidden_stride;

    alignas(64) T copy[kBackwardRows * kTileVectors * Lanes];
    bool as_it_is = false;  // the copy: nothing dropped, good for every user
    const auto copy_panel = [&](const Mask<T>& mask) {
        for_each_panel<Lanes>(panel.columns, [&](index column, int vectors) {
            for (index n = 0; n < rows; ++n) {
                for (int v = 0; v < vectors; ++v) {
                    const index at = column + v * Lanes;
                    V values = load_first<V>(source + n * stride + at, panel.columns - at);
                    if (mask.words) {
                        values = masked<T, Lanes>(values, mask.words + n * mask.stride,
                                                  panel.column + at, mask.scale);
                    }
                    store(copy + rows * column + (n * vectors + v) * Lanes, values);
                }
            }
        });
        as_it_is = !mask.words;
    };
    const auto add_to = [&](const T* strip, index height, T* gradient, index gradient_stride,
                            bool shared, const Mask<T>& mask) {
        if (!as_it_is || mask.words) copy_panel(mask);
        columns_product<T, Lanes>(strip, height, copy, rows, panel.columns,
                                  gradient + panel.column, gradient_stride, shared || block > 0);
    };
    if (of_x) {
        for (index l = panel.layer; l < s.layers; l += s.splits) {
            const Layer<T>& user = s.layer[l];
            add_to(strips + rows * l * s.width, s.width, user.weight_grad, user.columns,
                   user.shared, dropout.slice(l, first));
        }
        return;
    }
    if (is_chained(s, panel.layer + 1)) {
        const Layer<T>& user = s.layer[panel.layer + 1];
        add_to(strips + rows * (panel.layer + 1) * s.width, s.width,
               user.weight_grad + user.columns - s.width, user.columns, user.shared,
               dropout.chain(panel.layer + 1, first));
    }
    if (s.logits_grad) {
        add_to(strips + rows * hidden_stride, s.outputs, s.out_weight_grad + panel.layer * s.width,
               hidden_stride, false, dropout.output(panel.layer, first));
    }
}

template <class T>
void bias_gradients(const Spine<T>& s, index block, const T* strips) {
    const index rows = block_rows(s, block);
    for (index l = 0; l < s.layers; ++l) {
        const Layer<T>& layer = s.layer[l];
        if (layer.bias_grad) {
            columns_sum(strips + rows * l * s.width, s.width, rows, layer.bias_grad,
                        layer.shared || block > 0);
        }
    }
    if (s.out_bias_grad && s.logits_grad) {
        columns_sum(strips + rows * s.layers * s.width, s.outputs, rows, s.out_bias_grad,
                    block > 0);
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
    WeightGradients(const Spine<T>& s, const Dropout<T>& dropout)
        : s_(s), dropout_(dropout) {
        if (s.wants_weights) panels_ = weight_panels(s);
        for (index l = 0; l < s.layers; ++l) shared_ = shared_ || s.layer[l].shared;
    }

    // What one block adds.
    void block(index block, const T* strips) const {
        for (const Panel& panel : panels_) add(panel, block, strips);
        bias_gradients(s_, block, strips);
    }

    // All blocks, given the strips of each.
    template <class StripsOf>
    void all(int threads, index blocks, const StripsOf& strips_of) const {
        if (shared_) {
            // Panels of different slices add to the same columns of a shared matrix: blocks in
            // order.
            for (index b = 0; b < blocks; ++b) block(b, strips_of(b));
            return;
        }
        const auto panel_phase = [&](index part) {
            for (index b = 0; b < blocks; ++b) {
                part ? add(panels_[part - 1], b, strips_of(b))
                     : bias_gradients(s_, b, strips_of(b));
            }
        };
        run(threads, static_cast<index>(panels_.size()) + 1, panel_phase);
    }

private:
    void add(const Panel& panel, index block, const T* strips) const {
        panel.wide ? panel_gradients<T, kWide<T>>(s_, dropout_, panel, block, strips)
                   : panel_gradients<T, kNarrow<T>>(s_, dropout_, panel, block, strips);
    }

    const Spine<T>& s_;
    const Dropout<T>& dropout_;
    std::vector<Panel> panels_;
    bool shared_ = false;
};

template <class T>
inline index strips_per_row(const Spine<T>& s) {
    return s.wants_weights ? s.layers * s.width + s.outputs : 0;
}

template <class T>
void backward(const Spine<T>& s) {
    clear(s);
    if (s.rows == 0) return;
    const BackwardSpine<T> weights(s);
    const Dropout<T> nothing;
    const WeightGradients<T> weights_phase(s, nothing);
    const index blocks = block_count(s);
    const int threads = useful_threads(s, 2);
    if (threads <= 1) {
        Buffer<T> strips(block_rows(s, 0) * strips_per_row(s));
        for (index block = 0; block < blocks; ++block) {
            backward_rows(s, weights, block, strips.data());
            if (s.wants_weights) weights_phase.block(block, strips.data());
        }
        return;
    }
    Buffer<T> strips(s.rows * strips_per_row(s));
    const auto strips_of = [&](index block) {
        return strips.data() + block * kBackwardRows * strips_per_row(s);
    };
    const auto rows_phase = [&](index block) {
        backward_rows(s, weights, block, strips_of(block));
    };
    run(threads, blocks, rows_phase);
    if (s.wants_weights) weights_phase.all(threads, blocks, strips_of);
}

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
