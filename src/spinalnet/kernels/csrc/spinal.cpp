// The kernels of one instruction set: forward and backward of a whole spinal chain, each as one
// operation, and what else is compiled once per set.

#include "train.h"

namespace spinalnet {
namespace SPINAL_ARCH {
namespace {

double exercise_tile(index repeats) {
    constexpr int lanes = kWide<float>, width = kTileVectors * lanes;
    constexpr index length = 64;
    Buffer<float> a(kTileRows * length), b(length * width), sums(kTileRows * width);
    for (index i = 0; i < kTileRows * length; ++i) a[i] = 1;
    for (index i = 0; i < length * width; ++i) b[i] = 1;
    const Term<float> term{a.data(), kTileRows, b.data(), width, length};
    for (index i = 0; i < repeats; ++i) {
        tile<float, lanes, true>(kTileRows, kTileVectors, &term, 1, sums.data());
        asm volatile("" ::: "memory");  // each round counts
    }
    return static_cast<double>(repeats) * kTileRows * width * length;
}

}  // namespace

void warp(const Warp&);  // warp.cpp
std::string check();     // check.cpp

extern const Kernels kernels;
const Kernels kernels = {
    SPINAL_ARCH_NAME,
    forward<float>,
    backward<float>,
    forward<double>,
    backward<double>,
    forward_regularized<float>,
    backward_regularized<float>,
    forward_regularized<double>,
    backward_regularized<double>,
    draw,
    exercise_tile,
    warp,
    train<float>,
    train<double>,
    check,
};

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
