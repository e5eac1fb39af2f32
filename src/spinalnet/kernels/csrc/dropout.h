// Which numbers a training step drops: where the bits are that say so, and drawing them.

#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "tile.h"

namespace spinalnet {
namespace SPINAL_ARCH {

// Which numbers of a training step are kept, from row `row` on. By default all of them.
template <class T>
class Dropout {
public:
    Dropout() = default;
    Dropout(const Spine<T>& s, const Regularization<T>& r)
        : inputs_(r.inputs), outputs_(r.outputs), width_words_(words(s.width)) {
        index at = 0;
        for (index l = 0; l < s.layers; ++l) {
            slice_at_.push_back(at);
            at += words(s.layer[l].size) + (is_chained(s, l) ? width_words_ : 0);
        }
        slice_at_.push_back(at);
    }

    // Words that a row of masks takes: of the inputs, of the output row.
    index input_words() const { return slice_at_.back(); }
    index output_words() const {
        return (static_cast<index>(slice_at_.size()) - 1) * width_words_;
    }

    bool drops_inputs() const { return inputs_.words; }
    bool drops_hidden() const { return outputs_.words; }

    Mask<T> slice(index l, index row) const {
        return inputs_.words ? from(inputs_, slice_at_[l], row) : Mask<T>{};
    }
    // Of layer l's input, the part that is the output of layer l - 1.
    Mask<T> chain(index l, index row) const {
        if (!inputs_.words) return {};
        return from(inputs_, slice_at_[l + 1] - width_words_, row);
    }
    Mask<T> output(index l, index row) const {
        return outputs_.words ? from(outputs_, l * width_words_, row) : Mask<T>{};
    }

private:
    static index words(index columns) { return (columns + 31) / 32; }
    static Mask<T> from(const Mask<T>& mask, index word, index row) {
        return {mask.words + row * mask.stride + word, mask.stride, mask.scale};
    }

    Mask<T> inputs_{}, outputs_{};
    index width_words_ = 0;
    std::vector<index> slice_at_;
};

// xoshiro256++ (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2021) in
// independent lanes, seeded by splitmix64 as its authors advise.
class Generator {
public:
    static constexpr int kLanes = 8;
    using Word = Vector<std::uint64_t, kLanes>;

    explicit Generator(std::uint64_t seed) {
        for (Word& word : state_) {
            for (int lane = 0; lane < kLanes; ++lane) word[lane] = mix(seed);
        }
    }
    // By reference: how such a vector is returned differs between instruction sets.
    void next(Word& result) {
        Word &a = state_[0], &b = state_[1], &c = state_[2], &d = state_[3];
        result = a + d;
        result = (result << 23 | result >> (64 - 23)) + a;
        const Word shifted = b << 17;
        c ^= a, d ^= b, b ^= c, a ^= d, c ^= shifted;
        d = d << 45 | d >> (64 - 45);
    }

private:
    static std::uint64_t mix(std::uint64_t& seed) {
        std::uint64_t z = seed += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }

    Word state_[4];
};

// Digits of the binary fraction that a probability is rounded to: as many as a float in [0, 1) has
// that torch draws.
constexpr int kProbabilityBits = 24;

// A bit is one with probability 0.b1 b2 b3 ...: going from the last digit to the first, `or` with a
// random bit where the digit is one and `and` where it is zero halves the probability so far and
// adds the digit. Trailing zeros need no random bit: probability 1/2 takes one.
inline void draw(std::uint64_t seed, double keep, std::uint32_t* words, index count) {
    constexpr index step = Generator::kLanes * 2;  // words
    const auto digits = static_cast<std::uint32_t>(std::lround(keep * (1 << kProbabilityBits)));
    if (digits == 0 || digits >> kProbabilityBits) {
        std::memset(words, digits ? 0xff : 0, count * sizeof(std::uint32_t));
        return;
    }
    const int first = __builtin_ctz(digits);
    Generator generator(seed);
    Generator::Word bits, random;
    for (index i = 0; i < count; i += step) {
        generator.next(bits);
        for (int digit = first + 1; digit < kProbabilityBits; ++digit) {
            generator.next(random);
            if (digits >> digit & 1) {
                bits |= random;
            } else {
                bits &= random;
            }
        }
        std::memcpy(words + i, &bits, (count - i < step ? count - i : step) * sizeof(*words));
    }
}

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
