// Training steps with dropout or batch norm.
//
// Each layer drops inputs of its own, so that nothing is projected ahead; batch norm needs all rows
// of a layer before the next one starts. Hence layer by layer and, within a layer, block by block;
// only without norms does a block go on to the next layer while it is in the caches.

#pragma once

#include <cmath>
#include <cstring>

#include "backward.h"
#include "forward.h"

namespace spinalnet {
namespace SPINAL_ARCH {

template <class T>
struct Rows {
    const T* values;
    index stride;
};

// Rows times columns of `source`, and zero where they are dropped.
template <class T>
void drop(Rows<T> source, index rows, index columns, const Mask<T>& mask, T* target,
          index target_stride) {
    constexpr int lanes = kWide<T>;
    using V = Vector<T, lanes>;
    for (index n = 0; n < rows; ++n) {
        const T* from = source.values + n * source.stride;
        const std::uint32_t* bits = mask.words + n * mask.stride;
        T* to = target + n * target_stride;
        for (index j = 0; j < columns; j += lanes) {
            const V values = load_first<V>(from + j, columns - j);
            store_first(to + j, masked<T, lanes>(values, bits, j, mask.scale), columns - j);
        }
    }
}

// The same, in scratch memory; without a mask the source itself.
template <class T>
Rows<T> dropped(Rows<T> source, index rows, index columns, const Mask<T>& mask,
                Buffer<T>& scratch) {
    if (!mask.words) return source;
    const index stride = round_up(columns, kWide<T>);
    scratch = Buffer<T>(rows * stride);
    drop(source, rows, columns, mask, scratch.data(), stride);
    return {scratch.data(), stride};
}

// body(column, load, store) for every vector of a row of `columns` numbers: vectors of the narrower
// kind, since layers often are narrow.
template <class T, class Body>
inline void along_columns(index columns, const Body& body) {
    constexpr int lanes = kNarrow<T>;
    using V = Vector<T, lanes>;
    index j = 0;
    for (; j + lanes <= columns; j += lanes) {
        body(
            j, [](const T* p) { return load<V>(p); }, [](T* p, V v) { store(p, v); });
    }
    if (j < columns) {
        const index tail = columns - j;
        body(
            j, [&](const T* p) { return load_first<V>(p, tail); },
            [&](T* p, V v) { store_first(p, v, tail); });
    }
}

// Mean and sum of squared deviations of each column of a block.
template <class T>
void block_moments(Rows<T> z, index rows, index columns, T* mean, T* squares) {
    std::memset(mean, 0, columns * sizeof(T));
    std::memset(squares, 0, columns * sizeof(T));
    for (index n = 0; n < rows; ++n) {
        const T* row = z.values + n * z.stride;
        along_columns<T>(columns, [&](index j, auto load_at, auto store_at) {
            store_at(mean + j, load_at(mean + j) + load_at(row + j));
        });
    }
    for (index j = 0; j < columns; ++j) mean[j] /= static_cast<T>(rows);
    for (index n = 0; n < rows; ++n) {
        const T* row = z.values + n * z.stride;
        along_columns<T>(columns, [&](index j, auto load_at, auto store_at) {
            const auto off = load_at(row + j) - load_at(mean + j);
            store_at(squares + j, load_at(squares + j) + off * off);
        });
    }
}

// The statistics that a layer normalizes by, from those of its blocks, and the running ones.
template <class T>
void merge_moments(const BatchNorm<T>& norm, index rows, index block_rows, index columns,
                   const T* moments) {
    if (norm.batches) ++*norm.batches;
    for (index j = 0; j < columns; ++j) {
        double count = 0, mean = 0, squares = 0;
        for (index first = 0; first < rows; first += block_rows) {
            const T* block = moments + first / block_rows * 2 * columns;
            const double size = static_cast<double>(rows - first < block_rows ? rows - first
                                                                              : block_rows);
            const double off = block[j] - mean, total = count + size;
            mean += off * size / total;
            squares += block[columns + j] + off * off * count * size / total;
            count = total;
        }
        norm.mean[j] = static_cast<T>(mean);
        norm.inverse[j] = static_cast<T>(1 / std::sqrt(squares / count + norm.epsilon));
        const auto track = [&](T* running, double value) {
            running[j] = static_cast<T>((1 - norm.momentum) * running[j] + norm.momentum * value);
        };
        if (norm.running_mean) track(norm.running_mean, mean);
        if (norm.running_variance) track(norm.running_variance, squares / (count - 1));
    }
}

template <class T>
void use_running_statistics(const BatchNorm<T>& norm, index columns) {
    for (index j = 0; j < columns; ++j) {
        norm.mean[j] = norm.running_mean[j];
        norm.inverse[j] = static_cast<T>(1 / std::sqrt(norm.running_variance[j] + norm.epsilon));
    }
}

// h = act(gain * (z - mean) * inverse + bias)
template <class T>
void normalize(const BatchNorm<T>& norm, Rows<T> z, index rows, index columns, T slope, T* hidden,
               index hidden_stride) {
    Buffer<T> scale(columns), shift(columns);
    for (index j = 0; j < columns; ++j) {
        scale[j] = (norm.gain ? norm.gain[j] : T(1)) * norm.inverse[j];
        shift[j] = (norm.bias ? norm.bias[j] : T(0)) - norm.mean[j] * scale[j];
    }
    for (index n = 0; n < rows; ++n) {
        const T* row = z.values + n * z.stride;
        T* to = hidden + n * hidden_stride;
        along_columns<T>(columns, [&](index j, auto load_at, auto store_at) {
            const auto y = load_at(row + j) * load_at(scale.data() + j) + load_at(shift.data() + j);
            store_at(to + j, activation(y, slope));
        });
    }
}

template <class T>
void forward_regularized(const Spine<T>& s, const Regularization<T>& r) {
    if (s.rows == 0) return;
    const index hidden_stride = s.layers * s.width;
    const Affine<T> affine(s);
    const PackedSpine<T> packed(s, false);
    const Dropout<T> dropout(s, r);
    const index blocks = (s.rows + kForwardRows - 1) / kForwardRows;
    const int threads = useful_threads(s, 1);
    Buffer<T> moments(r.norm ? blocks * 2 * s.width : 0);

    const auto rows_of = [&](index block) {
        const index left = s.rows - block * kForwardRows;
        return left < kForwardRows ? left : kForwardRows;
    };
    const auto layer_block = [&](index l, index block) {
        const index first = block * kForwardRows, rows = rows_of(block);
        const Layer<T>& layer = s.layer[l];
        Buffer<T> slice_copy, chain_copy;
        const Rows<T> x = dropped<T>({s.x + first * s.x_stride + layer.offset, s.x_stride}, rows,
                                     layer.size, dropout.slice(l, first), slice_copy);
        Product<T> products[2] = {{x.values, x.stride, &packed.slices[l], layer.size}};
        T* hidden = s.hidden + first * hidden_stride + l * s.width;
        if (is_chained(s, l)) {
            const Rows<T> h = dropped<T>({hidden - s.width, hidden_stride}, rows, s.width,
                                         dropout.chain(l, first), chain_copy);
            products[1] = {h.values, h.stride, &packed.chain[l], s.width};
        }
        Finish<T> finish{hidden, hidden_stride};
        affine.apply(s, l, finish);
        if (r.norm) {
            finish.c = r.sums + first * hidden_stride + l * s.width;
            finish.slope = 1;
        }
        rows_product(products, is_chained(s, l) ? 2 : 1, rows, s.width, finish);
        if (r.norm && !r.norm[l].fixed) {
            T* mean = moments.data() + block * 2 * s.width;
            block_moments<T>({finish.c, hidden_stride}, rows, s.width, mean, mean + s.width);
        }
    };
    const auto normalize_block = [&](index l, index block) {
        const index at = block * kForwardRows * hidden_stride + l * s.width;
        normalize<T>(r.norm[l], {r.sums + at, hidden_stride}, rows_of(block), s.width, s.slope,
                     s.hidden + at, hidden_stride);
    };
    const auto output_block = [&](index block) {
        const index first = block * kForwardRows, rows = rows_of(block);
        Rows<T> hidden{s.hidden + first * hidden_stride, hidden_stride};
        Buffer<T> copy;
        if (r.outputs.words) {
            copy = Buffer<T>(rows * hidden_stride);
            for (index l = 0; l < s.layers; ++l) {
                drop<T>({hidden.values + l * s.width, hidden_stride}, rows, s.width,
                        dropout.output(l, first), copy.data() + l * s.width, hidden_stride);
            }
            hidden.values = copy.data();
        }
        const Product<T> product{hidden.values, hidden_stride, &packed.output, hidden_stride};
        Finish<T> finish{s.logits + first * s.outputs, s.outputs};
        affine.apply(s, s.layers, finish);
        rows_product(&product, 1, rows, s.outputs, finish);
    };

    if (r.norm) {
        for (index l = 0; l < s.layers; ++l) {
            run(threads, blocks, [&](index block) { layer_block(l, block); });
            if (r.norm[l].fixed) {
                use_running_statistics(r.norm[l], s.width);
            } else {
                merge_moments(r.norm[l], s.rows, kForwardRows, s.width, moments.data());
            }
            run(threads, blocks, [&](index block) { normalize_block(l, block); });
        }
    } else {
        run(threads, blocks, [&](index block) {
            for (index l = 0; l < s.layers; ++l) layer_block(l, block);
        });
    }
    if (s.outputs) run(threads, blocks, output_block);
}

// The gradient of what the activation of one layer was given, for the rows of a block.
template <class T>
void activation_gradient(const Spine<T>& s, const BackwardSpine<T>& weights,
                         const Dropout<T>& dropout, index l, index first, index rows,
                         T* gradients) {
    const index hidden_stride = s.layers * s.width;
    const Mask<T> of_output = dropout.output(l, first);
    const Mask<T> of_next = is_chained(s, l + 1) ? dropout.chain(l + 1, first) : Mask<T>{};
    if (!of_output.words && !of_next.words) {
        return sums_gradient(s, weights, l, first, rows, gradients);
    }
    // Each factor has its own mask: one product after the other, added up in c.
    Finish<T> finish{gradients + l * s.width, hidden_stride};
    if (s.hidden_grad) {
        finish.start = s.hidden_grad + first * s.hidden_grad_stride + l * s.width;
        finish.start_stride = s.hidden_grad_stride;
    }
    const auto add = [&](const Product<T>& product, const Mask<T>& mask) {
        finish.kind = mask.words ? Finish<T>::kDrop : Finish<T>::kStore;
        finish.mask = mask;
        rows_product(&product, 1, rows, s.width, finish);
        finish.start = finish.c, finish.start_stride = finish.stride;
    };
    if (s.logits_grad) {
        add({s.logits_grad + first * s.logits_grad_stride, s.logits_grad_stride,
             &weights.output[l], s.outputs},
            of_output);
    }
    if (is_chained(s, l + 1)) {
        add({finish.c + s.width, hidden_stride, &weights.chain[l + 1], s.width}, of_next);
    }
    const T* hidden = s.hidden + first * hidden_stride + l * s.width;
    for (index n = 0; n < rows; ++n) {
        T* row = finish.c + n * hidden_stride;
        along_columns<T>(s.width, [&](index j, auto load_at, auto store_at) {
            const auto output = load_at(hidden + n * hidden_stride + j);
            store_at(row + j, gated(load_at(row + j), output, s.slope));
        });
    }
}

// Per column of a block: the sum of the gradients by the norm's results, and of their products with
// the normalized z.
template <class T>
void norm_sums(const BatchNorm<T>& norm, Rows<T> gradient, Rows<T> z, index rows, index columns,
               T* total, T* correlated) {
    std::memset(total, 0, columns * sizeof(T));
    std::memset(correlated, 0, columns * sizeof(T));
    for (index n = 0; n < rows; ++n) {
        const T *g = gradient.values + n * gradient.stride, *row = z.values + n * z.stride;
        along_columns<T>(columns, [&](index j, auto load_at, auto store_at) {
            const auto dy = load_at(g + j);
            const auto off = load_at(row + j) - load_at(norm.mean + j);
            store_at(total + j, load_at(total + j) + dy);
            const auto normalized = off * load_at(norm.inverse + j);
            store_at(correlated + j, load_at(correlated + j) + dy * normalized);
        });
    }
}

// The gradient by z, in the place of that by the norm's results dy:
//   gain * inverse * (dy - mean(dy) - normalized z * mean(dy * normalized z))
template <class T>
void norm_gradient(const BatchNorm<T>& norm, index all_rows, const T* sums, Rows<T> z, index rows,
                   index columns, T* gradient, index stride) {
    const T *total = sums, *correlated = sums + columns;
    Buffer<T> scale(columns), drift(columns), shift(columns);
    const T share = norm.fixed ? T(0) : T(1) / static_cast<T>(all_rows);
    for (index j = 0; j < columns; ++j) {
        scale[j] = (norm.gain ? norm.gain[j] : T(1)) * norm.inverse[j];
        drift[j] = scale[j] * norm.inverse[j] * correlated[j] * share;
        shift[j] = -scale[j] * total[j] * share;
    }
    for (index n = 0; n < rows; ++n) {
        const T* row = z.values + n * z.stride;
        T* g = gradient + n * stride;
        along_columns<T>(columns, [&](index j, auto load_at, auto store_at) {
            const auto off = load_at(row + j) - load_at(norm.mean + j);
            const auto dz = load_at(g + j) * load_at(scale.data() + j) + load_at(shift.data() + j);
            store_at(g + j, dz - off * load_at(drift.data() + j));
        });
    }
}

template <class T>
void backward_regularized(const Spine<T>& s, const Regularization<T>& r) {
    clear(s);
    for (index l = 0; r.norm && s.rows == 0 && l < s.layers; ++l) {
        zero(r.norm[l].gain_grad, s.width);
        zero(r.norm[l].bias_grad, s.width);
    }
    if (s.rows == 0) return;
    const index hidden_stride = s.layers * s.width;
    const BackwardSpine<T> weights(s);
    const Dropout<T> dropout(s, r);
    const index blocks = block_count(s);
    const int threads = useful_threads(s, 2);
    Buffer<T> gradients(s.rows * hidden_stride), block_sums(r.norm ? blocks * 2 * s.width : 0);
    Buffer<T> sums(2 * s.width);

    const auto layer_block = [&](index l, index block) {
        const index first = block * kBackwardRows, rows = block_rows(s, block);
        T* gradient = gradients.data() + first * hidden_stride;
        activation_gradient(s, weights, dropout, l, first, rows, gradient);
        if (r.norm) {
            T* partial = block_sums.data() + block * 2 * s.width;
            norm_sums<T>(r.norm[l], {gradient + l * s.width, hidden_stride},
                         {r.sums + first * hidden_stride + l * s.width, hidden_stride}, rows,
                         s.width, partial, partial + s.width);
        }
    };
    const auto merge = [&](index l) {
        for (index j = 0; j < 2 * s.width; ++j) {
            double sum = 0;
            for (index block = 0; block < blocks; ++block) {
                sum += block_sums[block * 2 * s.width + j];
            }
            sums[j] = static_cast<T>(sum);
        }
        const BatchNorm<T>& norm = r.norm[l];
        for (index j = 0; j < s.width; ++j) {
            if (norm.bias_grad) norm.bias_grad[j] = sums[j];
            if (norm.gain_grad) norm.gain_grad[j] = sums[s.width + j];
        }
    };
    const auto norm_block = [&](index l, index block) {
        const index at = block * kBackwardRows * hidden_stride + l * s.width;
        norm_gradient<T>(r.norm[l], s.rows, sums.data(), {r.sums + at, hidden_stride},
                         block_rows(s, block), s.width, gradients.data() + at, hidden_stride);
    };
    const auto input_block = [&](index block) {
        const index first = block * kBackwardRows, rows = block_rows(s, block);
        const T* gradient = gradients.data() + first * hidden_stride;
        if (!r.inputs.words) return input_gradient(s, weights, gradient, first, rows);
        for (index l = 0; l < s.layers; ++l) {
            const Layer<T>& layer = s.layer[l];
            Finish<T> finish{s.x_grad + first * s.features + layer.offset, s.features};
            if (l >= s.splits) finish.start = finish.c, finish.start_stride = finish.stride;
            finish.kind = Finish<T>::kDrop;
            finish.mask = dropout.slice(l, first);
            const Product<T> product{gradient + l * s.width, hidden_stride, &weights.slices[l],
                                     s.width};
            rows_product(&product, 1, rows, layer.size, finish, Keep::kRows);
        }
    };

    if (r.norm) {
        for (index l = s.layers - 1; l >= 0; --l) {
            run(threads, blocks, [&](index block) { layer_block(l, block); });
            merge(l);
            run(threads, blocks, [&](index block) { norm_block(l, block); });
        }
    } else {
        run(threads, blocks, [&](index block) {
            for (index l = s.layers - 1; l >= 0; --l) layer_block(l, block);
        });
    }
    if (s.x_grad) run(threads, blocks, input_block);
    if (!s.wants_weights) return;

    both_phases(s, threads, WeightGradients<T>(s, dropout, false),
                [&](index block, const BlockGradients<T>& found) {
                    cut_strips(s, gradients.data() + block * kBackwardRows * hidden_stride, block,
                               found.values);
                });
}

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
