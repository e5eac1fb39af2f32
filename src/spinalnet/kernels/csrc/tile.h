// The register tile: the one inner loop behind every phase of forward and backward.
//
// A tile is MR rows times NV vectors of the product, kept in registers while the inner dimension
// runs. Per step it loads NV vectors of b, broadcasts MR numbers of a, and does MR * NV fused
// multiply-adds. Two things fix its shape:
//
//   * Latency. An FMA takes 4 cycles and two can start per cycle, so at least 8 independent
//     accumulators are needed.
//   * Loads. A core starts two loads and two FMAs per cycle, so (MR + NV) / (MR * NV) must stay
//     well below 1; the more accumulators, the lower, until the registers are used up:
//
//     AVX-512  32 registers   8 x 3 accumulators + 3 of b + 1 of a = 28   0.46 loads per FMA
//     AVX2     16 registers   4 x 3 accumulators + 3 of b + 1 of a = 16   0.58
//     NEON     32 registers   8 x 3, as AVX-512
//
// Vectors are the compiler's own vector types, so the same text serves every instruction set;
// this header is compiled once per set, in the namespace SPINAL_ARCH.

#pragma once

#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "spine.h"

#ifndef SPINAL_ARCH
#error "compile with -DSPINAL_ARCH=<name of the instruction set>"
#endif

namespace spinalnet {
namespace SPINAL_ARCH {

#if defined(__AVX512F__)
constexpr int kTileRows = 8, kWideBytes = 64, kNarrowBytes = 32;
#elif defined(__AVX2__)
constexpr int kTileRows = 4, kWideBytes = 32, kNarrowBytes = 32;
#else
constexpr int kTileRows = 8, kWideBytes = 16, kNarrowBytes = 16;
#endif
constexpr int kTileVectors = 3;

template <class T, int Lanes>
struct VectorOf {
    typedef T type __attribute__((vector_size(Lanes * sizeof(T))));
};
template <class T, int Lanes>
using Vector = typename VectorOf<T, Lanes>::type;

template <class T>
constexpr int kWide = kWideBytes / static_cast<int>(sizeof(T));
template <class T>
constexpr int kNarrow = kNarrowBytes / static_cast<int>(sizeof(T));

constexpr index round_up(index value, index multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

template <class V, class T>
inline V load(const T* p) {
    V v;
    std::memcpy(&v, p, sizeof(V));
    return v;
}

template <class V, class T>
inline void store(T* p, V v) {
    std::memcpy(p, &v, sizeof(V));
}

// The first `count` lanes only; memory behind them is not touched. Loops of this form become one
// masked instruction with AVX-512 and AVX2.
template <class V, class T>
inline V load_first(const T* p, index count) {
    constexpr int lanes = sizeof(V) / sizeof(T);
    if (count >= lanes) return load<V>(p);
    const int end = static_cast<int>(count);
    V v = {};
    for (int i = 0; i < lanes; ++i) v[i] = i < end ? p[i] : T(0);
    return v;
}

template <class V, class T>
inline void store_first(T* p, V v, index count) {
    constexpr int lanes = sizeof(V) / sizeof(T);
    if (count >= lanes) return store(p, v);
    const int end = static_cast<int>(count);
    for (int i = 0; i < lanes; ++i) {
        if (i < end) p[i] = v[i];
    }
}

// 1, 2, 4, ... : the bit of every lane.
template <class Bits, int... I>
constexpr Bits lane_bits(std::integer_sequence<int, I...>) {
    return Bits{(decltype(Bits{}[0] + 0)(1) << I)...};
}

// One product a * b inside a sum of products. Rows of b are `b_stride` apart. Element (i, k) of a
// is a[i * a_stride + k], or, interleaved, a[k * a_stride + i]: the tile's rows are neighbours, as
// in a transposed matrix that is read where it lies, or in a copy of it with strides of MR.
template <class T>
struct Term {
    const T* a;
    index a_stride;
    const T* b;
    index b_stride;
    index length;
};

// sum += a * b for all terms. Always inlined, so that the sums of its caller are registers.
template <class T, int Lanes, int MR, int NV, bool Interleaved>
inline __attribute__((always_inline)) void add_terms(const Term<T>* terms, int count,
                                                     Vector<T, Lanes> (&sum)[MR][NV]) {
    using V = Vector<T, Lanes>;
    for (const Term<T>* term = terms; term != terms + count; ++term) {
        const T* b = term->b;
        const index a_stride = term->a_stride, b_stride = term->b_stride, length = term->length;
        const T* a[MR];
        for (int i = 0; i < MR; ++i) a[i] = term->a + (Interleaved ? i : i * a_stride);
#pragma GCC unroll 2
        for (index k = 0; k < length; ++k) {
            V column[NV];
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) column[v] = load<V>(b + v * Lanes);
#pragma GCC unroll 8
            for (int i = 0; i < MR; ++i) {
                const T value = Interleaved ? a[0][i] : a[i][k];
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) sum[i][v] += value * column[v];
            }
            b += b_stride;
            if (Interleaved) a[0] += a_stride;
        }
    }
}

// change(i, v) for each of the vectors of a tile, unrolled.
template <int MR, int NV, class Change>
inline __attribute__((always_inline)) void for_each_in_tile(Change change) {
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) change(i, v);
    }
}

// out[MR][NV * Lanes] = sum over the terms of a * b.
template <class T, int Lanes, int MR, int NV, bool Interleaved>
void accumulate(const Term<T>* terms, int count, T* out) {
    Vector<T, Lanes> sum[MR][NV] = {};
    add_terms<T, Lanes, MR, NV, Interleaved>(terms, count, sum);
    for_each_in_tile<MR, NV>([&](int i, int v) { store(out + (i * NV + v) * Lanes, sum[i][v]); });
}

// The same, written where it belongs, c[i * stride + j], which it is added to if `add`.
template <class T, int Lanes, int MR, int NV, bool Interleaved>
void accumulate_in_place(const Term<T>* terms, int count, T* c, index stride, bool add) {
    using V = Vector<T, Lanes>;
    V sum[MR][NV] = {};
    add_terms<T, Lanes, MR, NV, Interleaved>(terms, count, sum);
    if (add) {
        for_each_in_tile<MR, NV>([&](int i, int v) {
            T* const at = c + i * stride + v * Lanes;
            store(at, load<V>(at) + sum[i][v]);
        });
    } else {
        for_each_in_tile<MR, NV>(
            [&](int i, int v) { store(c + i * stride + v * Lanes, sum[i][v]); });
    }
}

// The tiles of every size that the walks below hand out, by their place in the table:
// (rows - 1) * kTileVectors + vectors - 1.
using TileSizes = std::make_index_sequence<kTileRows * kTileVectors>;

template <class T, int Lanes, bool Interleaved, std::size_t... Size>
inline void tile(std::index_sequence<Size...>, int rows, int vectors, const Term<T>* terms,
                 int count, T* out) {
    using Function = void (*)(const Term<T>*, int, T*);
    static constexpr Function functions[] = {
        accumulate<T, Lanes, Size / kTileVectors + 1, Size % kTileVectors + 1, Interleaved>...};
    functions[(rows - 1) * kTileVectors + vectors - 1](terms, count, out);
}

template <class T, int Lanes, bool Interleaved>
inline void tile(int rows, int vectors, const Term<T>* terms, int count, T* out) {
    tile<T, Lanes, Interleaved>(TileSizes(), rows, vectors, terms, count, out);
}

template <class T, int Lanes, bool Interleaved, std::size_t... Size>
inline void tile_in_place(std::index_sequence<Size...>, int rows, int vectors,
                          const Term<T>* terms, int count, T* c, index stride, bool add) {
    using Function = void (*)(const Term<T>*, int, T*, index, bool);
    static constexpr Function functions[] = {
        accumulate_in_place<T, Lanes, Size / kTileVectors + 1, Size % kTileVectors + 1,
                            Interleaved>...};
    functions[(rows - 1) * kTileVectors + vectors - 1](terms, count, c, stride, add);
}

// Height of the next tile when `left` rows remain: as few tiles as possible, and those as equal as
// possible (50 rows are 8, 7, 7, 7, 7, 7, 7), because low tiles load more per multiply-add.
inline int tile_rows(index left) {
    const index tiles = (left + kTileRows - 1) / kTileRows;
    return static_cast<int>((left + tiles - 1) / tiles);
}

// body(std::integral_constant<int, rows>()), for loops over the height of a tile that are to be
// unrolled.
template <int Rows = kTileRows, class Body>
inline void with_height(int rows, Body body) {
    if (rows == Rows) {
        body(std::integral_constant<int, Rows>());
    } else if constexpr (Rows > 1) {
        with_height<Rows - 1>(rows, body);
    }
}

// Width in vectors of the next panel when `left` vectors remain; 4 go as 2 + 2, not 3 + 1.
inline int panel_vectors(index left) {
    return left == 4 ? 2 : left < kTileVectors ? static_cast<int>(left) : kTileVectors;
}

// Walk the panels of `columns`: body(first column, vectors).
template <int Lanes, class Body>
inline void for_each_panel(index columns, Body body) {
    index left = round_up(columns, Lanes) / Lanes;
    for (index column = 0; left > 0;) {
        const int vectors = panel_vectors(left);
        body(column, vectors);
        left -= vectors;
        column += vectors * Lanes;
    }
}

// Whether a multiply-add of a wide vector takes no longer than one of a narrow vector. So it is
// with AVX-512 on Intel's server processors; AMD's take (up to Zen 4) twice as long.
inline bool wide_is_free() {
#if defined(__AVX512F__)
    static const bool is = (__builtin_cpu_init(), !__builtin_cpu_is("amd"));
    return is;
#else
    return false;
#endif
}

// Whether wide vectors pay for a product of so many columns: where they are free, if they are
// fewer (50 columns: 4 instead of 7); else not if they mostly multiply padding.
template <class T>
inline bool use_wide(index columns) {
    const index wide = round_up(columns, kWide<T>), narrow = round_up(columns, kNarrow<T>);
    return wide_is_free() ? wide / kWide<T> < narrow / kNarrow<T> : wide * 8 <= narrow * 9;
}

// Numbers in 16 bytes: within such pieces, shuffles are cheap, and memory is read and written in
// them without shuffling.
template <class T>
constexpr int kPiece = 16 / static_cast<int>(sizeof(T));

// Of each piece of a and b the first (second) halves, zipped.
template <int Piece, int Half, class V, std::size_t... I>
inline V zip_pieces(V a, V b, std::index_sequence<I...>) {
    constexpr int lanes = sizeof...(I);
    return __builtin_shufflevector(
        a, b, (I / Piece * Piece + I % Piece / 2 + Half * Piece / 2 + I % 2 * lanes)...);
}

// Transpose the squares that the pieces of kPiece vectors are.
template <class T, int Lanes>
inline void transpose_pieces(Vector<T, Lanes> (&v)[kPiece<T>]) {
    using V = Vector<T, Lanes>;
    using D = Vector<double, Lanes * sizeof(T) / 8>;
    constexpr auto doubles = std::make_index_sequence<Lanes * sizeof(T) / 8>();
    if constexpr (kPiece<T> == 2) {
        const V low = zip_pieces<2, 0>(v[0], v[1], doubles);
        v[1] = zip_pieces<2, 1>(v[0], v[1], doubles);
        v[0] = low;
    } else {
        constexpr auto lanes = std::make_index_sequence<Lanes>();
        const D a = (D)zip_pieces<4, 0>(v[0], v[1], lanes);
        const D b = (D)zip_pieces<4, 1>(v[0], v[1], lanes);
        const D c = (D)zip_pieces<4, 0>(v[2], v[3], lanes);
        const D d = (D)zip_pieces<4, 1>(v[2], v[3], lanes);
        v[0] = (V)zip_pieces<2, 0>(a, c, doubles);
        v[1] = (V)zip_pieces<2, 1>(a, c, doubles);
        v[2] = (V)zip_pieces<2, 0>(b, d, doubles);
        v[3] = (V)zip_pieces<2, 1>(b, d, doubles);
    }
}

// v with its piece p replaced, and piece p of v. Said in intrinsics, so that they become one
// instruction that reads or writes memory, not a shuffle besides.
template <class T, int Lanes, int P>
inline Vector<T, Lanes> with_piece(Vector<T, Lanes> v, Vector<T, kPiece<T>> piece) {
    using V = Vector<T, Lanes>;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    if constexpr (sizeof(V) == 64) return (V)_mm512_insertf64x2((__m512d)v, (__m128d)piece, P);
#endif
#if defined(__AVX__)
    if constexpr (sizeof(V) == 32) return (V)_mm256_insertf128_pd((__m256d)v, (__m128d)piece, P);
#endif
    if constexpr (sizeof(V) == 16) return (V)piece;
    for (int i = 0; i < kPiece<T>; ++i) v[P * kPiece<T> + i] = piece[i];
    return v;
}

template <class T, int Lanes, int P>
inline Vector<T, kPiece<T>> piece_of(Vector<T, Lanes> v) {
    using V = Vector<T, Lanes>;
    using Part = Vector<T, kPiece<T>>;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    if constexpr (sizeof(V) == 64) return (Part)_mm512_extractf64x2_pd((__m512d)v, P);
#endif
#if defined(__AVX__)
    if constexpr (sizeof(V) == 32) return (Part)_mm256_extractf128_pd((__m256d)v, P);
#endif
    if constexpr (sizeof(V) == 16) return (Part)v;
    Part part;
    for (int i = 0; i < kPiece<T>; ++i) part[i] = v[P * kPiece<T> + i];
    return part;
}

// A vector whose piece p is load(p).
template <class T, int Lanes, class Load, std::size_t... P>
inline __attribute__((always_inline)) Vector<T, Lanes> join_pieces(Load load,
                                                                   std::index_sequence<P...>) {
    Vector<T, Lanes> v = {};
    ((v = with_piece<T, Lanes, static_cast<int>(P)>(v, load(static_cast<int>(P)))), ...);
    return v;
}

// store(p, piece p of v)
template <class T, int Lanes, class Store, std::size_t... P>
inline __attribute__((always_inline)) void split_pieces(Vector<T, Lanes> v, Store store,
                                                        std::index_sequence<P...>) {
    (store(static_cast<int>(P), piece_of<T, Lanes, static_cast<int>(P)>(v)), ...);
}

template <class T, int Lanes>
using Pieces = std::make_index_sequence<Lanes / kPiece<T>>;

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
