// Whole training steps in one call: gather a batch, forward, loss, backward, update, and again.
//
// A small net spends most of a step outside of its multiplications: autograd, Python, an optimizer
// that visits tensor by tensor. Here a step is the kernels of forward.h, backward.h and
// regularized.h, a loss and one loop over one vector; the net and its optimizer's memory stay in
// the caches from step to step.

#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "regularized.h"
#include "training.h"

namespace spinalnet {
namespace SPINAL_ARCH {

// While it lives, numbers below the smallest normal one (1e-38) are zero in this thread and those
// it starts. Gradients of rows that are long since right, and running means of neurons that are
// dead, become that small, and a processor takes a hundred times as long for them.
class FlushesToZero {
public:
    FlushesToZero() : before_(read()) { write(before_ | kFlush); }
    ~FlushesToZero() { write(before_); }
    FlushesToZero(const FlushesToZero&) = delete;
    FlushesToZero& operator=(const FlushesToZero&) = delete;

private:
#if defined(__SSE2__)
    using State = unsigned;
    static constexpr State kFlush = 0x8040;  // results, and operands
    static State read() { return _mm_getcsr(); }
    static void write(State state) { _mm_setcsr(state); }
#elif defined(__aarch64__)
    using State = std::uint64_t;
    static constexpr State kFlush = 1 << 24;
    static State read() {
        State state;
        asm volatile("mrs %0, fpcr" : "=r"(state));
        return state;
    }
    static void write(State state) { asm volatile("msr fpcr, %0" : : "r"(state)); }
#else
    using State = int;
    static constexpr State kFlush = 0;
    static State read() { return 0; }
    static void write(State) {}
#endif
    const State before_;
};

// e^x for x <= 0 to a few units in the last place, without branches, so that the compiler makes
// vectors of it. NaN stays NaN. (Cody and Waite's reduction; coefficients of Cephes' expf, by S.
// Moshier.)
inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float magic = 12582912.0f;  // 1.5 * 2^23: the sum's last bits are the nearest integer
    const float shifted = x * 1.44269504088896341f + magic;
    const float n = shifted - magic;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    std::uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23;  // 2^n
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

inline double exponential(double x) { return std::exp(x); }

template <class V, class T>
inline V exponentials(V x) {
    constexpr int lanes = sizeof(V) / sizeof(T);
    alignas(64) T values[lanes];
    store(values, x);
    for (int i = 0; i < lanes; ++i) values[i] = exponential(values[i]);
    return load<V>(values);
}

// What a classification is told of a batch, and what it tells.
template <class T>
struct Answers {
    const std::int64_t* target;
    const T* weight;  // null: 1
    std::int64_t* correct;
    double loss = 0;
};

// Cross entropies of a block whose rows are the columns of `z`; their gradient, each `share` of
// that of its row, takes the place of the logits. With the batch along the vectors, because a row
// of ten logits does not fill one.
template <class T, int Lanes>
void cross_entropy(const Panels<T>& logits, index start, index rows, T share, Answers<T>& answers) {
    using V = Vector<T, Lanes>;
    using Int = std::conditional_t<sizeof(T) == sizeof(std::int32_t), std::int32_t, std::int64_t>;
    using Classes = Vector<Int, Lanes>;
    for_each_panel<Lanes>(rows, [&](index column, int vectors) {
        const int width = vectors * Lanes;
        for (index at = column; at < column + width && at < rows; at += Lanes) {
            T* const z = logits.at(0, column, width) + (at - column);  // class k: width * k behind
            V top = load<V>(z), total{};
            Classes best{};
            for (index k = 1; k < logits.height; ++k) {
                const V own = load<V>(z + k * width);
                const Classes better = own > top;
                top = better ? own : top;
                best = better ? Classes{} + static_cast<Int>(k) : best;
            }
            const int count = static_cast<int>(rows - at < Lanes ? rows - at : Lanes);
            const std::int64_t* const target = answers.target + start + at;
            alignas(64) T at_target[Lanes] = {}, sums[Lanes], scales[Lanes] = {}, shares[Lanes];
            for (int i = 0; i < count; ++i) at_target[i] = z[target[i] * width + i];
            for (index k = 0; k < logits.height; ++k) {
                const V power = exponentials<V, T>(load<V>(z + k * width) - top);
                store(z + k * width, power);
                total += power;
            }
            store(sums, total);
            for (int i = 0; i < count; ++i) {
                const T own = answers.weight ? answers.weight[start + at + i] : T(1);
                *answers.correct += best[i] == target[i];
                const T entropy = std::log(sums[i]) - (at_target[i] - top[i]);
                answers.loss += static_cast<double>(own * entropy);
                shares[i] = own * share;
                scales[i] = shares[i] / sums[i];
            }
            const V scale = load<V>(scales);
            for (index k = 0; k < logits.height; ++k) {
                store(z + k * width, load<V>(z + k * width) * scale);
            }
            for (int i = 0; i < count; ++i) z[target[i] * width + i] -= shares[i];
        }
    });
}

// The sum of the cross entropies of a batch, or of a part of it, added up block by block; the gradient of `share` times that
// sum takes the place of the logits, which are rows or, as forward left them, panels.
template <class T>
double cross_entropy(const Spine<T>& s, T* rows_of_logits, index classes, T share,
                     Answers<T> answers) {
    if (s.logits_panels) {
        double loss = 0;
        for (index first = 0; first < s.rows; first += kBackwardRows) {
            const index left = s.rows - first, rows = left < kBackwardRows ? left : kBackwardRows;
            const Panels<T> panels{s.logits_panels + first * classes, classes};
            answers.loss = 0;
            use_wide<T>(rows) ? cross_entropy<T, kWide<T>>(panels, first, rows, share, answers)
                              : cross_entropy<T, kNarrow<T>>(panels, first, rows, share, answers);
            loss += answers.loss;
        }
        return loss;
    } else {
        const Operand<T> transposed = pack_transposed<T, kWide<T>>(
            [&](index n) { return rows_of_logits + n * classes; }, classes, s.rows);
        const Panels<T> panels{transposed.packed.data(), classes};
        cross_entropy<T, kWide<T>>(panels, 0, s.rows, share, answers);
        unpack_transposed<T, kWide<T>>(panels, s.rows, rows_of_logits, classes);
    }
    return answers.loss;
}

// The sum of the squared errors of a batch, or of a part of it, added up block by block; the gradient of `share` times that
// sum takes the place of the outputs.
template <class T>
double squared_error(T* outputs, index rows, index columns, T share, const T* target,
                     const T* weight) {
    double loss = 0, part = 0;
    for (index n = 0; n < rows; ++n) {
        if (n % kBackwardRows == 0) loss += part, part = 0;
        const T own = weight ? weight[n] : T(1);
        for (index k = 0; k < columns; ++k) {
            const T off = outputs[n * columns + k] - target[n * columns + k];
            part += static_cast<double>(own * off * off);
            outputs[n * columns + k] = 2 * own * off * share;
        }
    }
    return loss + part;
}

// The update rules of torch.optim, for one stretch of the vectors.
template <class T>
void adam(T* __restrict p, const T* __restrict gradient, T* __restrict mean, T* __restrict square,
          index count, T shrink, T l2, T beta1, T beta2, T step, T inverse, T epsilon) {
    for (index i = 0; i < count; ++i) {
        const T g = gradient[i] + l2 * p[i];
        const T m = mean[i] + (1 - beta1) * (g - mean[i]);
        const T s = beta2 * square[i] + (1 - beta2) * g * g;
        mean[i] = m;
        square[i] = s;
        p[i] = shrink * p[i] - step * m / (std::sqrt(s) * inverse + epsilon);
    }
}

template <class T>
void momentum_descent(T* __restrict p, const T* __restrict gradient, T* __restrict velocity,
                      index count, T l2, T factor, T rate) {
    for (index i = 0; i < count; ++i) {
        const T v = factor * velocity[i] + gradient[i] + l2 * p[i];
        velocity[i] = v;
        p[i] -= rate * v;
    }
}

template <class T>
void update(const Training<T>& t, index step) {
    const double rate = t.rates[step], number = static_cast<double>(t.steps_before + step + 1);
    const double bias1 = 1 - std::pow(t.beta1, number), bias2 = 1 - std::pow(t.beta2, number);
    for (const Stretch& part : t.stretches) {
        const double decay = part.decays ? t.weight_decay : 0;
        const bool decoupled = t.rule == Rule::kAdamW;
        const T l2 = static_cast<T>(decoupled ? 0 : decay);
        T *p = t.parameters + part.start, *m = t.momentum + part.start;
        const T* g = t.gradient + part.start;
        if (t.rule == Rule::kSgd) {
            momentum_descent(p, g, m, part.count, l2, static_cast<T>(t.momentum_factor),
                             static_cast<T>(rate));
        } else {
            adam(p, g, m, t.square + part.start, part.count,
                 static_cast<T>(decoupled ? 1 - rate * decay : 1), l2, static_cast<T>(t.beta1),
                 static_cast<T>(t.beta2), static_cast<T>(rate / bias1),
                 static_cast<T>(1 / std::sqrt(bias2)), static_cast<T>(t.epsilon));
        }
    }
}

// Scale the gradient down to the norm `most`, if it is longer.
template <class T>
void clip(T* gradient, index count, double most) {
    constexpr int lanes = 8;
    double squares[lanes] = {};
    index i = 0;
    for (; i + lanes <= count; i += lanes) {
        for (int lane = 0; lane < lanes; ++lane) {
            squares[lane] += static_cast<double>(gradient[i + lane]) * gradient[i + lane];
        }
    }
    for (; i < count; ++i) squares[0] += static_cast<double>(gradient[i]) * gradient[i];
    double sum = 0;
    for (const double square : squares) sum += square;
    const double scale = most / (std::sqrt(sum) + 1e-6);
    if (scale >= 1) return;
    for (i = 0; i < count; ++i) gradient[i] *= static_cast<T>(scale);
}

// The net of a training as the kernels know it, for batches in `batch`.
template <class T>
class Net {
public:
    Net(const Training<T>& t, index most_rows)
        : layers_(t.layers),
          logits_columns(t.outputs ? t.outputs : t.layers * t.width),
          batch(most_rows * t.features),
          hidden_(most_rows * t.layers * t.width),
          logits_(most_rows * t.outputs),
          hidden_panels_(round_up(most_rows, kWide<T>) * t.layers * t.width),
          logits_panels_(round_up(most_rows, kWide<T>) * t.outputs) {
        Spine<T>& s = spine;
        s.features = t.features, s.width = t.width, s.layers = t.layers, s.splits = t.splits;
        s.outputs = t.outputs, s.slope = t.slope, s.threads = t.threads;
        s.unchained = t.unchained;
        s.x = batch.data(), s.x_stride = t.features;
        s.layer = layers_.data();
        s.hidden = hidden_.data(), s.logits = t.outputs ? logits_.data() : nullptr;
        s.wants_weights = true;
        const index shorter = s.features / s.splits, longer = s.features % s.splits;
        for (index l = 0; l < s.layers; ++l) {
            Layer<T>& layer = layers_[l];
            const Places& at = t.layer[l];
            const index split = l % s.splits;
            layer = {};
            layer.size = shorter + (split < longer);
            layer.offset = split * shorter + (split < longer ? split : longer);
            layer.weight = t.parameters + at.weight;
            layer.weight_grad = t.gradient + at.weight;
            layer.stride = at.stride, layer.columns = at.columns;
            if (at.bias >= 0) {
                layer.bias = t.parameters + at.bias;
                layer.bias_grad = t.gradient + at.bias;
            }
            for (index k = 0; k < l; ++k) {
                if (t.layer[k].weight == at.weight) layers_[k].shared = layer.shared = true;
            }
        }
        if (t.outputs) {
            s.out_weight = t.parameters + t.output.weight, s.out_stride = t.output.stride;
            s.out_weight_grad = t.gradient + t.output.weight;
            if (t.output.bias >= 0) {
                s.out_bias = t.parameters + t.output.bias;
                s.out_bias_grad = t.gradient + t.output.bias;
            }
        }
    }

    // For a batch of `spine.rows`, without dropout if `may`: whether x is read where it lies and
    // what follows is kept with the batch along the vectors.
    bool lay_out(bool may, bool classifies) {
        Spine<T>& s = spine;
        s.x_rows = nullptr, s.hidden_panels = s.logits_panels = nullptr;
        if (!may || !forward_is_batchwise(s) || !gradients_batchwise(s)) return false;
        s.hidden_panels = hidden_panels_.data();
        s.logits_panels = s.outputs && classifies ? logits_panels_.data() : nullptr;
        return true;
    }

    Spine<T> spine{};

private:
    std::vector<Layer<T>> layers_;

public:
    index logits_columns;
    Buffer<T> batch;

private:
    Buffer<T> hidden_, logits_, hidden_panels_, logits_panels_;
};

inline std::uint64_t mask_seed(std::uint64_t seed, index step, int which) {
    std::uint64_t z = seed + 0x9e3779b97f4a7c15u * (2 * static_cast<std::uint64_t>(step) + which);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

// Scratch memory of a step that is not allocated anew.
constexpr std::size_t kArenaBytes = 1 << 20;

// The steps of one net: its batches, and what a batch takes besides the net.
template <class T>
class Steps {
public:
    explicit Steps(Training<T>& t)
        : t_(t),
          most_(most_rows(t)),
          net_(t, most_),
          counted_(net_.spine, Regularization<T>{}),
          words_(t.keep < 1 ? counted_.input_words() : 0),
          output_words_(t.keep_output < 1 ? counted_.output_words() : 0),
          masks_(most_ * (words_ + output_words_)),
          targets_(most_),
          values_(t.classes ? 0 : most_ * net_.logits_columns),
          weights_(most_) {}

    // Find the mean loss of step `step`, for the rows `chosen`, and its gradient.
    double find_gradient(index step, const std::int64_t* chosen) {
        Spine<T>& s = net_.spine;
        const index rows = t_.sizes[step];
        const bool drops = words_ || output_words_;
        s.rows = rows, s.accumulates = false;
        take_targets(chosen, rows);
        double loss = 0;
        if (net_.lay_out(!drops, t_.classes != nullptr)) {
            // Part by part, so that all of it stays in the caches; for several threads at once, in
            // blocks of the same size: the same sums in the same order.
            const index part = useful_threads(s, 2) == 1 ? kBackwardRows : rows;
            s.x = t_.x, s.x_stride = t_.x_stride;
            for (index first = 0; first < rows; first += part) {
                s.x_rows = chosen + first;
                s.rows = rows - first < part ? rows - first : part;
                forward(s);
                loss += find_loss(first, rows);
                backward(s);
                s.accumulates = true;
            }
        } else {
            s.x = net_.batch.data(), s.x_stride = t_.features;
            for (index n = 0; n < rows; ++n) {
                std::memcpy(net_.batch.data() + n * t_.features, t_.x + chosen[n] * t_.x_stride,
                            t_.features * sizeof(T));
            }
            const Regularization<T> r = draw_masks(step, rows);
            drops ? forward_regularized(s, r) : forward(s);
            loss = find_loss(0, rows);
            drops ? backward_regularized(s, r) : backward(s);
        }
        return loss / static_cast<double>(t_.classes ? rows : rows * net_.logits_columns);
    }

private:
    static index most_rows(const Training<T>& t) {
        index most = 0;
        for (const index rows : t.sizes) most = rows > most ? rows : most;
        return most;
    }

    void take_targets(const std::int64_t* chosen, index rows) {
        const index columns = net_.logits_columns;
        for (index n = 0; n < rows; ++n) {
            const std::int64_t row = chosen[n];
            if (t_.classes) targets_[n] = t_.classes[row];
            for (index k = 0; !t_.classes && k < columns; ++k) {
                values_[n * columns + k] = t_.values[row * columns + k];
            }
            if (t_.row_weights) weights_[n] = t_.row_weights[row];
        }
    }

    Regularization<T> draw_masks(index step, index rows) {
        Regularization<T> r{};
        if (words_) {
            draw(mask_seed(t_.seed, t_.first + step, 0), t_.keep, masks_.data(), rows * words_);
            r.inputs = {masks_.data(), words_, static_cast<T>(1 / t_.keep)};
        }
        if (output_words_) {
            std::uint32_t* const mine = masks_.data() + rows * words_;
            draw(mask_seed(t_.seed, t_.first + step, 1), t_.keep_output, mine,
                 rows * output_words_);
            r.outputs = {mine, output_words_, static_cast<T>(1 / t_.keep_output)};
        }
        return r;
    }

    // The loss of the net's rows, which begin at row `first` of `all`, summed; its gradient is what
    // backward will read.
    double find_loss(index first, index all) {
        Spine<T>& s = net_.spine;
        const index columns = net_.logits_columns;
        const T* const own = t_.row_weights ? weights_.data() + first : nullptr;
        // A net without output row is linear: backward does not look at what it put out.
        T* const result = s.outputs ? s.logits : s.hidden;
        (s.outputs ? s.logits_grad : s.hidden_grad) = result;
        (s.outputs ? s.logits_grad_stride : s.hidden_grad_stride) = columns;
        if (t_.classes) {
            return cross_entropy(s, result, columns, T(1) / static_cast<T>(all),
                                 {targets_.data() + first, own, &t_.correct});
        }
        return squared_error(result, s.rows, columns, T(1) / static_cast<T>(all * columns),
                             values_.data() + first * columns, own);
    }

    Training<T>& t_;
    const index most_;
    Net<T> net_;
    const Dropout<T> counted_;
    const index words_, output_words_;
    Buffer<std::uint32_t> masks_;
    Buffer<std::int64_t> targets_;
    Buffer<T> values_, weights_;
};

// Make the steps; return how many. Fewer than asked for: the loss of the next one is not finite,
// and the weights are those before it.
template <class T>
index train(Training<T>& t) {
    const FlushesToZero flushes;
    Steps<T> net(t);
    const Arena arena(kArenaBytes);
    const std::int64_t* chosen = t.order;
    const index steps = static_cast<index>(t.sizes.size());
    for (index step = 0; step < steps; ++step) {
        t.losses[step] = net.find_gradient(step, chosen);
        if (!std::isfinite(t.losses[step])) return step;
        if (t.clip_norm > 0) clip(t.gradient, t.count, t.clip_norm);
        update(t, step);
        chosen += t.sizes[step];
    }
    return steps;
}

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
