// Whole training steps of one net, as plain arrays: what Python hands over.

#pragma once

#include <vector>

#include "spine.h"

namespace spinalnet {

enum class Rule { kAdamW, kAdam, kSgd };

// Neighbouring parameters; `decays`: whether they shrink by weight decay.
struct Stretch {
    index start, count;
    bool decays;
};

// Where a layer's numbers begin in the one vector of all parameters; bias < 0: none.
struct Places {
    index weight, bias, stride, columns;
};

// A net, its data, its optimizer and the steps to make. Everything in it belongs to this net alone,
// so the result depends on nothing else: not on the nets trained before it, after it or beside it.
template <class T>
struct Training {
    // The net: a chain with or without an output row (outputs == 0: its last layer are the logits).
    index features, width, layers, splits, outputs;
    bool unchained;
    T slope;
    std::vector<Places> layer;
    Places output;  // weight < 0: none
    double keep, keep_output;  // of dropout: the probability that an input is kept

    // All rows, and which of them the steps see: `order` one behind the other, `sizes` of a step.
    const T* x;  // (N, features), x_stride apart
    index x_stride;
    const std::int64_t* classes;  // (N); null: regression
    const T* values;              // (N, logits), contiguous
    const T* row_weights;         // (N); null: 1
    const std::int64_t* order;
    std::vector<index> sizes;

    // Vectors of `count` numbers.
    index count;
    T* parameters;
    T* gradient;
    T* momentum;  // adam: running mean of the gradient
    T* square;    // adam: of its square
    std::vector<Stretch> stretches;

    Rule rule;
    const double* rates;  // learning rate of every step
    double weight_decay, beta1, beta2, epsilon, momentum_factor;
    double clip_norm;  // 0: no limit
    index steps_before;  // since the optimizer was new
    std::uint64_t seed;  // of the dropout masks of the epoch
    index first;         // steps made of it
    int threads;

    double* losses;       // mean loss of every step
    std::int64_t correct;  // right answers so far; of a classification
};

}  // namespace spinalnet
