// Calls the kernels from several threads at once, each call with several threads of its own, and
// compares every result, bit by bit, with that of one quiet thread. Without Python, so that
// ThreadSanitizer sees every access (docs/kernels.md has the commands). Prints what it did; the
// exit code is 0 if all results agree.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "spine.h"
#include "warp.h"

namespace spinalnet {
#if defined(SPINAL_X86)
namespace x86_64_v4 { extern const Kernels kernels; }
namespace x86_64_v3 { extern const Kernels kernels; }
#endif
namespace baseline { extern const Kernels kernels; }

namespace {

constexpr int kCallers = 4, kRounds = 3;

std::vector<const Kernels*> runnable() {
    std::vector<const Kernels*> found{&baseline::kernels};
#if defined(SPINAL_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        found.push_back(&x86_64_v3::kernels);
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
            found.push_back(&x86_64_v4::kernels);
        }
    }
#endif
    return found;
}

template <class T>
std::vector<T> random_values(index count, unsigned seed, T low = -1, T high = 1) {
    std::mt19937 generator(seed);
    std::uniform_real_distribution<T> draw(low, high);
    std::vector<T> values(count);
    for (T& value : values) value = draw(generator);
    return values;
}

// A spinal net and its inputs, which all callers share; large enough for four threads a call.
template <class T>
struct Net {
    static constexpr index rows = 900, features = 96, width = 40, layers = 6, splits = 2;
    static constexpr index outputs = 10, slice = features / splits, hidden = layers * width;
    std::vector<T> x = random_values<T>(rows * features, 1);
    std::vector<T> weights = random_values<T>(layers * width * (slice + width), 2);
    std::vector<T> biases = random_values<T>(hidden, 3);
    std::vector<T> out_weight = random_values<T>(outputs * hidden, 4);
    std::vector<T> out_bias = random_values<T>(outputs, 5);
    std::vector<T> logits_grad = random_values<T>(rows * outputs, 6);
    std::vector<T> gains = random_values<T>(hidden, 11);
    bool regularized = false;  // with dropout and batch norm

    // Forward and backward; everything that was computed, one after the other.
    std::vector<T> run(const Kernels& kernels, int threads) const {
        std::vector<T> values(rows * hidden), logits(rows * outputs), x_grad(rows * features);
        std::vector<T> weight_grad(weights.size()), bias_grad(hidden);
        std::vector<T> out_weight_grad(outputs * hidden), out_bias_grad(outputs);
        std::vector<Layer<T>> layer(layers);
        for (index l = 0; l < layers; ++l) {
            layer[l] = Layer<T>{};
            layer[l].offset = l % splits * slice;
            layer[l].size = slice;
            layer[l].columns = layer[l].stride = slice + (l ? width : 0);
            layer[l].weight = weights.data() + l * width * (slice + width);
            layer[l].weight_grad = weight_grad.data() + l * width * (slice + width);
            layer[l].bias = biases.data() + l * width;
            layer[l].bias_grad = bias_grad.data() + l * width;
        }
        Spine<T> s{};
        s.rows = rows;
        s.features = s.x_stride = features;
        s.width = width;
        s.layers = layers;
        s.splits = splits;
        s.outputs = s.logits_grad_stride = outputs;
        s.threads = threads;
        s.x = x.data();
        s.layer = layer.data();
        s.out_weight = out_weight.data();
        s.out_stride = hidden;
        s.out_bias = out_bias.data();
        s.hidden = values.data();
        s.logits = logits.data();

        // Masks of the inputs and of the output row, with as many words for any slice and layer.
        constexpr index layer_words = (slice + 31) / 32 + (width + 31) / 32;
        constexpr index input_words = layers * layer_words, output_words = layers * 2;
        std::vector<std::uint32_t> kept(rows * input_words), kept_outputs(rows * output_words);
        kernels.draw(17, 0.7, kept.data(), static_cast<index>(kept.size()));
        kernels.draw(18, 0.5, kept_outputs.data(), static_cast<index>(kept_outputs.size()));
        std::vector<T> sums(rows * hidden), statistics(2 * hidden), gain_grad(hidden);
        std::vector<T> running_mean(hidden), running_variance(hidden);
        std::int64_t batches = 0;
        std::vector<BatchNorm<T>> norms;
        for (index l = 0; l < layers; ++l) {
            norms.push_back({gains.data() + l * width, nullptr, running_mean.data() + l * width,
                             running_variance.data() + l * width, l ? nullptr : &batches, 0.1, 1e-5,
                             false, statistics.data() + 2 * l * width,
                             statistics.data() + (2 * l + 1) * width, gain_grad.data() + l * width,
                             nullptr});
        }
        const Regularization<T> r{{kept.data(), input_words, T(1 / 0.7)},
                                  {kept_outputs.data(), output_words, T(2)},
                                  norms.data(),
                                  sums.data()};
        regularized ? kernels.forward(s, r) : kernels.forward(s);
        s.logits_grad = logits_grad.data();
        s.x_grad = x_grad.data();
        s.out_weight_grad = out_weight_grad.data();
        s.out_bias_grad = out_bias_grad.data();
        s.wants_weights = true;
        regularized ? kernels.backward(s, r) : kernels.backward(s);
        for (const auto* part : {&logits, &x_grad, &weight_grad, &bias_grad, &out_weight_grad,
                                 &out_bias_grad, &running_mean, &running_variance, &gain_grad}) {
            values.insert(values.end(), part->begin(), part->end());
        }
        return values;
    }
};

// Images and maps, some of which lead nowhere.
struct Pictures {
    static constexpr index images = 61, channels = 3, height = 45, width = 67;
    static constexpr index values = images * channels * height * width;
    std::vector<float> source = random_values<float>(values, 7, 0, 1);
    std::vector<std::uint8_t> bytes;
    std::vector<float> perspective = random_values<float>(9 * images, 8);
    std::vector<float> affine = random_values<float>(9 * images, 9);
    std::vector<float> box = random_values<float>(4 * images, 10, 0, 40);

    Pictures() {
        for (float value : source) bytes.push_back(static_cast<std::uint8_t>(value * 255));
        for (index i = 0; i < 9 * images; i += 70) perspective[i] = affine[i] = 1e30f;
        constexpr float nan = std::numeric_limits<float>::quiet_NaN();
        for (index i = 5; i < 9 * images; i += 90) perspective[i] = affine[i] = nan;
    }

    std::vector<float> run(const Kernels& kernels, int threads) const {
        const Map smooth[] = {{perspective.data(), box.data(), true, false},
                              {affine.data(), nullptr, true, true}};
        const Map nearest[] = {{affine.data(), nullptr, true, true}};
        std::vector<float> found(2 * values);
        std::vector<std::uint8_t> copied(values);
        Warp w{images, channels, height, width, bytes.data(), true, smooth, 2, found.data(),
               threads};
        kernels.warp(w);
        w.source = source.data();
        w.bytes = false;
        w.target = found.data() + values;
        kernels.warp(w);
        w = {images, channels, height, width, bytes.data(), true, nearest, 1, copied.data(),
             threads};
        kernels.warp(w);
        found.insert(found.end(), copied.begin(), copied.end());
        return found;
    }
};

// Whether all callers find what one quiet thread finds.
template <class Task>
bool agree(const char* name, const Kernels& kernels, const Task& task) {
    const auto expected = task.run(kernels, 1);
    std::vector<int> wrong(kCallers, 0);
    std::vector<std::thread> callers;
    for (int caller = 0; caller < kCallers; ++caller) {
        callers.emplace_back([&, caller] {
            for (int round = 0; round < kRounds; ++round) {
                const auto found = task.run(kernels, 2 + (caller + round) % 3);
                wrong[caller] += found.size() != expected.size() ||
                                 std::memcmp(found.data(), expected.data(),
                                             found.size() * sizeof(found[0])) != 0;
            }
        });
    }
    for (auto& caller : callers) caller.join();
    int total = 0;
    for (int count : wrong) total += count;
    std::printf("%-20s %-12s %d concurrent calls, %d wrong\n", name, kernels.name,
                kCallers * kRounds, total);
    return total == 0;
}

bool stress() {
    const Net<float> single;
    const Net<double> wide;
    Net<float> single_regularized;
    Net<double> wide_regularized;
    single_regularized.regularized = wide_regularized.regularized = true;
    const Pictures pictures;
    bool all = true;
    for (const Kernels* kernels : runnable()) {
        all &= agree("float", *kernels, single);
        all &= agree("double", *kernels, wide);
        all &= agree("float, regularized", *kernels, single_regularized);
        all &= agree("double, regularized", *kernels, wide_regularized);
        all &= agree("warp", *kernels, pictures);
    }
    return all;
}

}  // namespace
}  // namespace spinalnet

int main() { return spinalnet::stress() ? 0 : 1; }
