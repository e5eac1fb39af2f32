// Whole training steps in one call: gather a batch, forward, loss, backward, update, and again.
//
// A small net spends most of a step outside of its multiplications: autograd, Python, an optimizer
// that visits tensor by tensor. Here a step is the kernels of forward.h, backward.h and
// regularized.h, a loss and one loop over one vector; the net and its optimizer's memory stay in
// the caches from step to step.

#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "regularized.h"
#include "training.h"

namespace spinalnet {
namespace SPINAL_ARCH {

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

// Mean cross entropy of a batch; its gradient takes the place of the logits.
template <class T>
double cross_entropy(T* logits, index rows, index classes, const std::int64_t* target,
                     const T* weight, std::int64_t* correct) {
    const T share = T(1) / static_cast<T>(rows);
    double loss = 0;
    for (index n = 0; n < rows; ++n) {
        T* const z = logits + n * classes;
        index best = 0;
        for (index k = 1; k < classes; ++k) best = z[k] > z[best] ? k : best;
        const T top = z[best];
        *correct += best == target[n];
        for (index k = 0; k < classes; ++k) z[k] -= top;
    }
    // In one go: a row of ten logits does not fill a vector.
    Buffer<T> powers(rows * classes);
    T* const power = powers.data();
    for (index i = 0; i < rows * classes; ++i) power[i] = exponential(logits[i]);
    for (index n = 0; n < rows; ++n) {
        T* const z = logits + n * classes;
        const T* const e = power + n * classes;
        T total = 0;
        for (index k = 0; k < classes; ++k) total += e[k];
        const T own = weight ? weight[n] : T(1);
        loss += static_cast<double>(own * (std::log(total) - z[target[n]]));
        const T scale = own * share / total;
        for (index k = 0; k < classes; ++k) z[k] = e[k] * scale;
        z[target[n]] -= own * share;
    }
    return loss / static_cast<double>(rows);
}

// Mean squared error of a batch; its gradient takes the place of the outputs.
template <class T>
double squared_error(T* outputs, index rows, index columns, const T* target, const T* weight) {
    const T share = T(2) / static_cast<T>(rows * columns);
    double loss = 0;
    for (index n = 0; n < rows; ++n) {
        const T own = weight ? weight[n] : T(1);
        for (index k = 0; k < columns; ++k) {
            const T off = outputs[n * columns + k] - target[n * columns + k];
            loss += static_cast<double>(own * off * off);
            outputs[n * columns + k] = own * off * share;
        }
    }
    return loss / static_cast<double>(rows * columns);
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
          logits_(most_rows * t.outputs) {
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

    // What leaves the net; after the loss its gradient.
    T* result() const { return spine.outputs ? spine.logits : spine.hidden; }

    Spine<T> spine{};

private:
    std::vector<Layer<T>> layers_;

public:
    index logits_columns;
    Buffer<T> batch;

private:
    Buffer<T> hidden_, logits_;
};

inline std::uint64_t mask_seed(std::uint64_t seed, index step, int which) {
    std::uint64_t z = seed + 0x9e3779b97f4a7c15u * (2 * static_cast<std::uint64_t>(step) + which);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

// Make the steps; return how many. Fewer than asked for: the loss of the next one is not finite,
// and the weights are those before it.
template <class T>
index train(Training<T>& t) {
    index most_rows = 0;
    for (const index rows : t.sizes) most_rows = rows > most_rows ? rows : most_rows;
    Net<T> net(t, most_rows);
    Spine<T>& s = net.spine;
    const bool drops = t.keep < 1 || t.keep_output < 1;
    Regularization<T> r{};
    const Dropout<T> counted(s, r);
    const index words = t.keep < 1 ? counted.input_words() : 0;
    const index output_words = t.keep_output < 1 ? counted.output_words() : 0;
    Buffer<std::uint32_t> masks(most_rows * (words + output_words));
    Buffer<std::int64_t> targets(most_rows);
    Buffer<T> values(t.classes ? 0 : most_rows * net.logits_columns), weights(most_rows);

    const std::int64_t* chosen = t.order;
    const index steps = static_cast<index>(t.sizes.size());
    for (index step = 0; step < steps; ++step) {
        const index rows = t.sizes[step];
        for (index n = 0; n < rows; ++n) {
            const std::int64_t row = chosen[n];
            std::memcpy(net.batch.data() + n * t.features, t.x + row * t.x_stride,
                        t.features * sizeof(T));
            if (t.classes) targets[n] = t.classes[row];
            for (index k = 0; !t.classes && k < net.logits_columns; ++k) {
                values[n * net.logits_columns + k] = t.values[row * net.logits_columns + k];
            }
            if (t.row_weights) weights[n] = t.row_weights[row];
        }
        chosen += rows;
        s.rows = rows;
        if (words) {
            draw(mask_seed(t.seed, t.first + step, 0), t.keep, masks.data(), rows * words);
            r.inputs = {masks.data(), words, static_cast<T>(1 / t.keep)};
        }
        if (output_words) {
            std::uint32_t* const mine = masks.data() + rows * words;
            draw(mask_seed(t.seed, t.first + step, 1), t.keep_output, mine, rows * output_words);
            r.outputs = {mine, output_words, static_cast<T>(1 / t.keep_output)};
        }
        drops ? forward_regularized(s, r) : forward(s);
        const T* const own = t.row_weights ? weights.data() : nullptr;
        // A net without output row is linear: backward does not look at what it put out.
        const double loss =
            t.classes ? cross_entropy(net.result(), rows, net.logits_columns, targets.data(), own,
                                      &t.correct)
                      : squared_error(net.result(), rows, net.logits_columns, values.data(), own);
        t.losses[step] = loss;
        if (!std::isfinite(loss)) return step;
        if (s.outputs) {
            s.logits_grad = s.logits, s.logits_grad_stride = net.logits_columns;
        } else {
            s.hidden_grad = s.hidden, s.hidden_grad_stride = net.logits_columns;
        }
        drops ? backward_regularized(s, r) : backward(s);
        if (t.clip_norm > 0) clip(t.gradient, t.count, t.clip_norm);
        update(t, step);
    }
    return steps;
}

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
