// The spinal chain as plain arrays: what Python hands over and what the kernels compute.
//
//   h_0 = act(A_0 s_0 + b_0)
//   h_l = act(A_l s_(l mod S) + B_l h_(l-1) + b_l)              l = 1 ... L-1
//   hidden = [h_0 | ... | h_(L-1)],  logits = C hidden + d      (either or both)
//
// `act(z)` is `z > 0 ? z : slope * z`. W_l = [A_l | B_l] is stored row by row, H rows.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace spinalnet {

using index = std::ptrdiff_t;

// Statistics of an eval-mode batch norm between the linear map and the activation.
template <class T>
struct Norm {
    const T* mean;
    const T* variance;
    const T* gain;  // null: 1
    const T* bias;  // null: 0
    double epsilon;
};

template <class T>
struct Layer {
    index offset;  // first column of x that this layer sees
    index size;    // number of those columns

    const T* weight;
    index stride;   // elements from one row of `weight` to the next
    index columns;  // at least size + H (without the H where there is no B_l); B_l is the last H
    const T* bias;  // null: none
    const Norm<T>* norm;  // null: none

    T* weight_grad;   // H x columns, contiguous; null: not wanted
    T* bias_grad;     // null: not wanted
    bool shared;      // several layers add to the same gradients, which start as zero
};

template <class T>
struct Spine {
    index rows, features, width, layers, splits;
    T slope;
    int threads;

    const T* x;
    index x_stride;
    const Layer<T>* layer;
    bool unchained;  // no layer sees the one before: there are no B_l

    // The output row; outputs == 0: hidden layers alone.
    index outputs;
    const T* out_weight;  // outputs x (layers * width)
    index out_stride;
    const T* out_bias;  // null: none

    T* hidden;  // rows x (layers * width), contiguous; forward: null if not wanted
    T* logits;  // rows x outputs, contiguous

    // Backward only. Null: not given, or not wanted.
    const T* hidden_grad;
    index hidden_grad_stride;
    const T* logits_grad;
    index logits_grad_stride;
    T* x_grad;  // rows x features, contiguous
    T* out_weight_grad;
    T* out_bias_grad;
    bool wants_weights;

    // Whole training steps only; null: none. Which rows of x are meant (the first so many).
    const std::int64_t* x_rows;
    // Room for matrices with the batch along the vectors, block by block of kBackwardRows: the
    // hidden outputs once more, as forward leaves them for backward; the logits, or their gradient,
    // instead of those above.
    T* hidden_panels;
    T* logits_panels;
    bool accumulates;  // weight gradients are added to
};

template <class T>
inline const T* x_row(const Spine<T>& s, index n) {
    return s.x + (s.x_rows ? static_cast<index>(s.x_rows[n]) : n) * s.x_stride;
}

// Which numbers of every row are kept by dropout, as bits: those of row n begin at word
// n * stride, and are cut into segments, each of which begins with a new word. The numbers kept are
// multiplied by `scale`, the others by zero.
template <class T>
struct Mask {
    const std::uint32_t* words;  // null: all, as they are
    index stride;
    T scale;
};

// Batch norm of one layer in a training step.
template <class T>
struct BatchNorm {
    const T* gain;  // null: 1
    const T* bias;  // null: 0
    T* running_mean;  // null: not tracked
    T* running_variance;
    std::int64_t* batches;  // how many were tracked; null: nobody counts
    double momentum, epsilon;
    bool fixed;  // normalizes by the running statistics, which stay as they are
    T* mean;  // of this step, and 1 / standard deviation: found forward, used backward
    T* inverse;
    T* gain_grad;  // null: not wanted
    T* bias_grad;
};

// What a training step adds to a chain. The layer's input is dropped first, its sums are normalized
// before the activation.
template <class T>
struct Regularization {
    Mask<T> inputs;    // segments: of each layer its slice, then (if it sees it) the previous layer
    Mask<T> outputs;  // of the output row, a segment for each layer
    const BatchNorm<T>* norm;  // one per layer; null: none
    T* sums;  // with norms: what they see, rows x (layers * width)
};

// Whether layer l sees the one before it.
template <class T>
inline bool is_chained(const Spine<T>& s, index l) {
    return l > 0 && l < s.layers && !s.unchained;
}

// B_l, the columns of W_l that multiply the previous layer.
template <class T>
inline const T* chained(const Spine<T>& s, index l) {
    return s.layer[l].weight + s.layer[l].columns - s.width;
}

template <class T>
inline double macs_per_row(const Spine<T>& s) {
    double macs = static_cast<double>(s.layers) * s.width * s.outputs;
    for (index l = 0; l < s.layers; ++l) {
        macs += s.width * (s.layer[l].size + (is_chained(s, l) ? s.width : 0.0));
    }
    return macs;
}

struct Warp;  // warp.h
template <class T>
struct Training;  // training.h

template <class T>
using Pass = void (*)(const Spine<T>&);
template <class T>
using RegularizedPass = void (*)(const Spine<T>&, const Regularization<T>&);

// One build of the kernels for one instruction set. They throw std::bad_alloc.
struct Kernels {
    const char* name;
    Pass<float> forward_float, backward_float;
    Pass<double> forward_double, backward_double;
    RegularizedPass<float> forward_regularized_float, backward_regularized_float;
    RegularizedPass<double> forward_regularized_double, backward_regularized_double;
    // Draw random bits, each of them one with probability `keep`.
    void (*draw)(std::uint64_t seed, double keep, std::uint32_t* words, index count);
    // Multiply-accumulates done by `repeats` rounds of the float tile on numbers in the L1 cache:
    // the ceiling of everything above, for benchmarks.
    double (*exercise_tile)(index repeats);
    void (*warp)(const Warp&);
    // Whole training steps; how many were made.
    index (*train_float)(Training<float>&);
    index (*train_double)(Training<double>&);
    // What is wrong with the tile and the products around it, for tests; empty: nothing.
    std::string (*check)();

    index train(Training<float>& t) const { return train_float(t); }
    index train(Training<double>& t) const { return train_double(t); }
    void forward(const Spine<float>& s) const { forward_float(s); }
    void forward(const Spine<double>& s) const { forward_double(s); }
    void backward(const Spine<float>& s) const { backward_float(s); }
    void backward(const Spine<double>& s) const { backward_double(s); }
    void forward(const Spine<float>& s, const Regularization<float>& r) const {
        forward_regularized_float(s, r);
    }
    void forward(const Spine<double>& s, const Regularization<double>& r) const {
        forward_regularized_double(s, r);
    }
    void backward(const Spine<float>& s, const Regularization<float>& r) const {
        backward_regularized_float(s, r);
    }
    void backward(const Spine<double>& s, const Regularization<double>& r) const {
        backward_regularized_double(s, r);
    }
};

// Run `task(context, part)` for every part in [0, parts) on up to `threads` threads and wait.
// An exception of any of them is thrown here.
void parallel(int threads, index parts, void (*task)(const void*, index), const void* context);

}  // namespace spinalnet
