// How a call is shared out: blocks of rows, and threads.

#pragma once

#include "spine.h"

namespace spinalnet {
namespace SPINAL_ARCH {

// Multiply-accumulates that justify one more thread: about 0.2 ms, ten times what starting and
// joining it takes (19 us).
constexpr double kWorkPerThread = 8e6;

// Rows per block of a backward pass: the panel of x or hidden outputs that a weight gradient
// multiplies, 128 rows x 3 vectors = 24 KiB, has to stay in the L1 cache. Of fewer rows as many
// panels do, and a gradient is written in longer pieces.
constexpr index kBackwardRows = 128;

template <class F>
void run(int threads, index parts, const F& body) {
    if (threads <= 1 || parts <= 1) {
        for (index part = 0; part < parts; ++part) body(part);
    } else {
        const auto task = [](const void* f, index part) { (*static_cast<const F*>(f))(part); };
        parallel(threads, parts, task, &body);
    }
}

template <class T>
int useful_threads(const Spine<T>& s, double passes) {
    const double limit = macs_per_row(s) * s.rows * passes / kWorkPerThread;
    return limit < s.threads ? static_cast<int>(limit) + 1 : s.threads;
}

// Number of layers that see slice `split`: split, split + S, split + 2 S, ...
template <class T>
inline index members(const Spine<T>& s, index split) {
    return split < s.layers ? (s.layers - split + s.splits - 1) / s.splits : 0;
}

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
