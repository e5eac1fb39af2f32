// Matrix products built from tiles: how operands are laid out and what happens to the results.
//
//   rows_product    c[n, j] = finish(sum over terms of a[n, k] b[k, j])    forward, hidden and
//                                                                          input gradients
//   columns_product c[j, k] += sum over n of a[n, j] b[n, k]               weight gradients
//
// Both walk the columns of b in panels of at most three vectors. A panel of b is copied into
// scratch memory, one row behind the other, when it is used often enough: power-of-two strides
// would map its rows onto a few cache sets, and the copy pads the last vector with zeros.

#pragma once

#include <cstdlib>
#include <new>
#include <type_traits>

#include "tile.h"

namespace spinalnet {
namespace SPINAL_ARCH {

// A stack of scratch memory for calls that allocate the same again and again, in the thread that
// made it and as long as it lives. What does not fit is allocated as ever; under AddressSanitizer,
// which would not see where one piece ends, everything.
class Arena {
public:
    explicit Arena(std::size_t bytes)
        : base_(static_cast<char*>(std::aligned_alloc(kLine, bytes))), size_(base_ ? bytes : 0) {
#if defined(__SANITIZE_ADDRESS__)
        size_ = 0;
#endif
        active() = this;
    }
    ~Arena() {
        active() = nullptr;
        std::free(base_);
    }
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    static Arena*& active() {
        static thread_local Arena* arena = nullptr;
        return arena;
    }

    void* take(std::size_t bytes) {
        if (used_ + kLine + bytes > size_) return nullptr;
        Block* const block = reinterpret_cast<Block*>(base_ + used_);
        *block = {top_, false};
        top_ = block;
        used_ += kLine + bytes;
        return reinterpret_cast<char*>(block) + kLine;
    }
    bool owns(const void* memory) const { return base_ <= memory && memory < base_ + size_; }
    // Memory is free again once what was taken after it is.
    void give(void* memory) {
        reinterpret_cast<Block*>(static_cast<char*>(memory) - kLine)->free = true;
        for (; top_ && top_->free; top_ = top_->below) {
            used_ = static_cast<std::size_t>(reinterpret_cast<char*>(top_) - base_);
        }
    }

private:
    static constexpr std::size_t kLine = 64;
    struct Block {
        Block* below;
        bool free;
    };

    char* base_;
    std::size_t size_, used_ = 0;
    Block* top_ = nullptr;
};

// Aligned, uninitialised scratch memory of one call. Nothing is shared between calls.
template <class T>
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(index count) {
        if (count <= 0) return;
        const std::size_t bytes = round_up(count * static_cast<index>(sizeof(T)), 64);
        Arena* const arena = Arena::active();
        void* memory = arena ? arena->take(bytes) : nullptr;
        if (!memory) memory = std::aligned_alloc(64, bytes);
        if (!memory) throw std::bad_alloc();
        data_ = static_cast<T*>(memory);
    }
    Buffer(Buffer&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        return *this;
    }
    ~Buffer() {
        Arena* const arena = Arena::active();
        if (arena && data_ && arena->owns(data_)) {
            arena->give(data_);
        } else {
            std::free(data_);
        }
    }

    T* data() const { return data_; }
    T& operator[](index i) const { return data_[i]; }

private:
    T* data_ = nullptr;
};

// The right side of a rows_product. Columns before `packed_from` are read where they are, the
// others from panels of scratch memory (panel of column c starts at length * (c - packed_from)).
template <class T>
struct Operand {
    const T* base = nullptr;
    index stride = 0;
    index packed_from = 0;
    Buffer<T> packed;
};

template <class T>
struct Product {
    const T* a;
    index a_stride;
    const Operand<T>* b;
    index length;
};

// What to do with a tile of sums, and where to put it.
template <class T>
struct Finish {
    enum Kind { kStore, kActivate, kGate, kDrop };

    T* c;
    index stride;
    const T* start = nullptr;  // added to the sums, same shape as c; null: nothing
    index start_stride = 0;
    Kind kind = kStore;
    T slope = 1;
    const T* scale = nullptr;  // kActivate: c = act(scale * sum + shift), one value per column,
    const T* shift = nullptr;  //   in whole vectors
    const T* gate = nullptr;   // kGate: c = sum * act'(z), read off the activation's output
    index gate_stride = 0;
    Mask<T> mask{};  // kDrop: c = start + what is kept of the sum; segment of c in the first row
};

// relu(-inf) is 0 and relu(NaN) is NaN, as in torch: hence no product with a zero slope, and the
// comparison that is false for NaN.
template <class T, class V>
inline V activation(V z, T slope) {
    if (slope == 0) return z < 0 ? V{} : z;
    return slope == 1 ? z : z > 0 ? z : slope * z;
}

template <class T, class V>
inline V gated(V gradient, V output, T slope) {
    if (slope == 0) return output <= 0 ? V{} : gradient;
    return slope == 1 ? gradient : output > 0 ? gradient : slope * gradient;
}

// The bits of `words` from `column` on, a multiple of the lanes, decide which lanes of v are kept.
template <class T, int Lanes>
inline Vector<T, Lanes> masked(Vector<T, Lanes> v, const std::uint32_t* words, index column,
                               T scale) {
    using Int = std::conditional_t<sizeof(T) == sizeof(std::int32_t), std::int32_t, std::int64_t>;
    using Bits = Vector<Int, Lanes>;
    const auto bits = static_cast<Int>(words[column / 32] >> column % 32);
    const Bits mine = (Bits{} + bits) & lane_bits<Bits>(std::make_integer_sequence<int, Lanes>());
    // Multiplied and not chosen, so that an infinite number that is dropped becomes NaN, as in
    // torch.
    return v * (mine != 0 ? Vector<T, Lanes>{} + scale : Vector<T, Lanes>{});
}

// The loop is compiled for each kind, with and without a start: next to the short inner dimension
// of a narrow chain, decisions per vector would be felt.
template <class T, int Lanes, int Kind, bool Start>
void finish_tile(const Finish<T>& f, const T* sums, int rows, int vectors, index row, index column,
                 index columns) {
    using V = Vector<T, Lanes>;
    const auto finish = [&](index i, index at, V z, auto load_at, auto store_at) {
        if constexpr (Kind == Finish<T>::kDrop) {
            z = masked<T, Lanes>(z, f.mask.words + i * f.mask.stride, at, f.mask.scale);
        }
        if constexpr (Start) z += load_at(f.start + i * f.start_stride + at);
        if constexpr (Kind == Finish<T>::kActivate) {
            z = activation(z * load<V>(f.scale + at) + load<V>(f.shift + at), f.slope);
        }
        if constexpr (Kind == Finish<T>::kGate) {
            z = gated(z, load_at(f.gate + i * f.gate_stride + at), f.slope);
        }
        store_at(f.c + i * f.stride + at, z);
    };
    const index tail = columns - column - (vectors - 1) * Lanes;
    const int whole = tail < Lanes ? vectors - 1 : vectors;
    for (int i = 0; i < rows; ++i, sums += vectors * Lanes) {
        for (int v = 0; v < whole; ++v) {
            finish(
                row + i, column + v * Lanes, load<V>(sums + v * Lanes),
                [](const T* p) { return load<V>(p); }, [](T* p, V z) { store(p, z); });
        }
        if (whole < vectors) {
            finish(
                row + i, column + whole * Lanes, load<V>(sums + whole * Lanes),
                [&](const T* p) { return load_first<V>(p, tail); },
                [&](T* p, V z) { store_first(p, z, tail); });
        }
    }
}

template <class T, int Lanes>
inline void finish_tile(const Finish<T>& f, const T* sums, int rows, int vectors, index row,
                        index column, index columns) {
    using Function = void (*)(const Finish<T>&, const T*, int, int, index, index, index);
    using F = Finish<T>;
    static constexpr Function functions[4][2] = {
        {finish_tile<T, Lanes, F::kStore, false>, finish_tile<T, Lanes, F::kStore, true>},
        {finish_tile<T, Lanes, F::kActivate, false>, finish_tile<T, Lanes, F::kActivate, true>},
        {finish_tile<T, Lanes, F::kGate, false>, finish_tile<T, Lanes, F::kGate, true>},
        {finish_tile<T, Lanes, F::kDrop, false>, finish_tile<T, Lanes, F::kDrop, true>},
    };
    functions[f.kind][f.start != nullptr](f, sums, rows, vectors, row, column, columns);
}

constexpr int kMaxTerms = 64;

// Which operand stays in the L1 cache while the other passes by. Few columns and a long inner
// dimension: the panel of b. Many columns: the rows of a, so that c, wider than the caches, is
// written line after line instead of in strips.
enum class Keep { kPanel, kRows };

template <class T, int Lanes>
void rows_product(const Product<T>* products, int count, index rows, index columns,
                  const Finish<T>& finish, Keep keep) {
    alignas(64) T sums[kTileRows * kTileVectors * Lanes];
    Term<T> terms[kMaxTerms];
    const auto take_panel = [&](index column, int vectors) {
        for (int t = 0; t < count; ++t) {
            const Product<T>& p = products[t];
            const Operand<T>& b = *p.b;
            const bool packed = column >= b.packed_from;
            terms[t].a_stride = p.a_stride;
            terms[t].b = packed ? b.packed.data() + p.length * (column - b.packed_from)
                                : b.base + column;
            terms[t].b_stride = packed ? vectors * Lanes : b.stride;
            terms[t].length = p.length;
        }
    };
    const auto take_rows = [&](index row) {
        for (int t = 0; t < count; ++t) terms[t].a = products[t].a + row * products[t].a_stride;
    };
    const auto compute = [&](index row, int height, index column, int vectors) {
        tile<T, Lanes, false>(height, vectors, terms, count, sums);
        finish_tile<T, Lanes>(finish, sums, height, vectors, row, column, columns);
    };
    const auto for_each_strip = [&](auto body) {
        for (index row = 0; row < rows;) {
            const int height = tile_rows(rows - row);
            body(row, height);
            row += height;
        }
    };
    if (keep == Keep::kPanel) {
        for_each_panel<Lanes>(columns, [&](index column, int vectors) {
            take_panel(column, vectors);
            for_each_strip([&](index row, int height) {
                take_rows(row);
                compute(row, height, column, vectors);
            });
        });
    } else {
        for_each_strip([&](index row, int height) {
            take_rows(row);
            for_each_panel<Lanes>(columns, [&](index column, int vectors) {
                take_panel(column, vectors);
                compute(row, height, column, vectors);
            });
        });
    }
}

template <class T>
inline void rows_product(const Product<T>* products, int count, index rows, index columns,
                         const Finish<T>& finish, Keep keep = Keep::kPanel) {
    if (use_wide<T>(columns)) {
        rows_product<T, kWide<T>>(products, count, rows, columns, finish, keep);
    } else {
        rows_product<T, kNarrow<T>>(products, count, rows, columns, finish, keep);
    }
}

// b (length x columns) as an operand: copied into panels, or used where it is except for a last
// panel that has to be padded.
template <class T, int Lanes>
Operand<T> pack_rows(const T* b, index stride, index length, index columns, bool copy) {
    using V = Vector<T, Lanes>;
    index from = columns;
    for_each_panel<Lanes>(columns, [&](index column, int vectors) {
        if (from == columns && (copy || column + vectors * Lanes > columns)) from = column;
    });
    Operand<T> operand{b, stride, from, Buffer<T>(length * (round_up(columns, Lanes) - from))};
    for_each_panel<Lanes>(columns, [&](index column, int vectors) {
        if (column < from) return;
        T* panel = operand.packed.data() + length * (column - from);
        for (index k = 0; k < length; ++k) {
            for (int v = 0; v < vectors; ++v) {
                const index at = column + v * Lanes;
                store(panel + (k * vectors + v) * Lanes,
                      load_first<V>(b + k * stride + at, columns - at));
            }
        }
    });
    return operand;
}

template <class T>
inline Operand<T> pack_rows(const T* b, index stride, index length, index columns, bool copy) {
    return use_wide<T>(columns) ? pack_rows<T, kWide<T>>(b, stride, length, columns, copy)
                                : pack_rows<T, kNarrow<T>>(b, stride, length, columns, copy);
}

// A transposed matrix (length x columns) in panels: its column j is the contiguous row `source(j)`
// of `length` numbers. Small squares are transposed in registers.
template <class T, int Lanes, class Source>
void transpose_into(T* panels, Source source, index length, index columns) {
    constexpr int piece = kPiece<T>;
    using V = Vector<T, Lanes>;
    using Part = Vector<T, piece>;
    for_each_panel<Lanes>(columns, [&](index column, int vectors) {
        const index width = vectors * Lanes;
        for (index j = 0; j < width; j += Lanes) {
            const T* rows[Lanes];
            const index left = columns - column - j;
            for (int i = 0; i < Lanes; ++i) rows[i] = i < left ? source(column + j + i) : nullptr;
            T* to = panels + length * column + j;
            const auto square = [&](index k, auto load_part) __attribute__((always_inline)) {
                V v[piece];
                for (int i = 0; i < piece; ++i) {
                    v[i] = join_pieces<T, Lanes>(
                        [&](int p) { return load_part(rows[p * piece + i]); }, Pieces<T, Lanes>());
                }
                transpose_pieces<T, Lanes>(v);
                for (int i = 0; i < piece; ++i) {
                    if (k + i < length) store(to + (k + i) * width, v[i]);
                }
            };
            index k = 0;
            for (; left >= Lanes && k + piece <= length; k += piece) {
                square(k, [&](const T* row) { return load<Part>(row + k); });
            }
            for (; k < length; k += piece) {
                square(k, [&](const T* row) {
                    return row ? load_first<Part>(row + k, length - k) : Part{};
                });
            }
        }
    });
}

// The same as an operand.
template <class T, int Lanes, class Source>
Operand<T> pack_transposed(Source source, index length, index columns) {
    Operand<T> operand{nullptr, 0, 0, Buffer<T>(length * round_up(columns, Lanes))};
    transpose_into<T, Lanes>(operand.packed.data(), source, length, columns);
    return operand;
}

template <class T, class Source>
inline Operand<T> pack_transposed(Source source, index length, index columns) {
    return use_wide<T>(columns) ? pack_transposed<T, kWide<T>>(source, length, columns)
                                : pack_transposed<T, kNarrow<T>>(source, length, columns);
}

// The left side of a columns_product: a (rows x columns) cut into vertical strips as high tiles
// want them, each strip stored row behind row; strip of column j starts at rows * j.
template <class T>
void interleave(const T* a, index stride, index rows, index columns, T* strips) {
    for (index j = 0; j < columns;) {
        const int width = tile_rows(columns - j);
        T* strip = strips + rows * j;
        with_height(width, [&](auto height) {
            constexpr int count = decltype(height)::value;
            for (index n = 0; n < rows; ++n) {
                std::memcpy(strip + n * count, a + n * stride + j, count * sizeof(T));
            }
        });
        j += width;
    }
}

// The right side of a weight gradient, rows x columns: in panels, that of column k at rows * k; or,
// with a b_stride, row behind row, in whole vectors.
template <class T>
struct Right {
    const T* values;
    index b_stride;

    // Rows from `row` on of the panel of `column`, as the right side of a term.
    void take(index row, index rows, index column, int width, Term<T>& term) const {
        term.b_stride = b_stride ? b_stride : width;
        term.b = values + (b_stride ? column : rows * column) + row * term.b_stride;
    }
};

// c (+)= strips^T b
template <class T, int Lanes>
void columns_product(const T* strips, index a_columns, const Right<T>& b, index rows,
                     index columns, T* c, index stride, bool add) {
    alignas(64) T sums[kTileRows * kTileVectors * Lanes];
    Finish<T> finish{c, stride};
    if (add) finish.start = c, finish.start_stride = stride;
    for (index j = 0; j < a_columns;) {
        const int height = tile_rows(a_columns - j);
        for_each_panel<Lanes>(columns, [&](index column, int vectors) {
            Term<T> term{strips + rows * j, height, nullptr, 0, rows};
            b.take(0, rows, column, vectors * Lanes, term);
            tile<T, Lanes, true>(height, vectors, &term, 1, sums);
            finish_tile<T, Lanes>(finish, sums, height, vectors, j, column, columns);
        });
        j += height;
    }
}

// sums[j] (+)= sum over the rows of strips.
template <class T>
void columns_sum(const T* strips, index a_columns, index rows, T* sums, bool add) {
    for (index j = 0; j < a_columns;) {
        const int width = tile_rows(a_columns - j);
        const T* strip = strips + rows * j;
        with_height(width, [&](auto height) {
            constexpr int count = decltype(height)::value;
            using V = Vector<T, kTileRows>;
            // Whole vectors, whose last lanes are the next row's and are left out in the end; four
            // of them, because each addition waits for the one before.
            constexpr int at_once = 4;
            constexpr int beyond = (kTileRows - 1) / count;  // rows that a load reaches
            V sum[at_once] = {};
            index n = 0;
            for (; n + at_once + beyond <= rows; n += at_once) {
                for (int u = 0; u < at_once; ++u) {
                    V row;
                    std::memcpy(&row, strip + (n + u) * count, sizeof row);
                    sum[u] += row;
                }
            }
            const V total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
            T last[count] = {};
            for (; n < rows; ++n) {
                for (int i = 0; i < count; ++i) last[i] += strip[n * count + i];
            }
            for (int i = 0; i < count; ++i) {
                sums[j + i] = (add ? sums[j + i] : T(0)) + (total[i] + last[i]);
            }
        });
        j += width;
    }
}

// Sum of the lanes, by adding one half to the other. Halves are cut out in registers: a round
// through memory would wait for the store.
template <class T, int Lanes, std::size_t... I>
inline T lanes_sum(Vector<T, Lanes> v, std::index_sequence<I...>) {
    if constexpr (Lanes == 2) {
        return v[0] + v[1];
    } else {
        const Vector<T, Lanes / 2> low = __builtin_shufflevector(v, v, I...);
        const Vector<T, Lanes / 2> high = __builtin_shufflevector(v, v, (I + Lanes / 2)...);
        return lanes_sum<T, Lanes / 2>(low + high, std::make_index_sequence<Lanes / 4>());
    }
}

template <class T, int Lanes>
inline T lanes_sum(Vector<T, Lanes> v) {
    return lanes_sum<T, Lanes>(v, std::make_index_sequence<Lanes / 2>());
}

// Few rows: dots[R][J] += a[R rows] . b[J rows], along contiguous memory, with nothing packed.
// Every weight is read once per R rows, which is all that counts when a weight is used R times.
template <class T, int R, int J>
inline void dot_tile(const T* a, index a_stride, const T* b, index b_stride, index length,
                     T (&dots)[R][J]) {
    constexpr int lanes = kNarrow<T>;
    using V = Vector<T, lanes>;
    V sum[R][J] = {};
    const auto step = [&](index k, auto load_at) {
        V row[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) row[r] = load_at(a + r * a_stride + k);
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) {
            const V column = load_at(b + j * b_stride + k);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) sum[r][j] += row[r] * column;
        }
    };
    index k = 0;
    for (; k + lanes <= length; k += lanes) step(k, [](const T* p) { return load<V>(p); });
    if (k < length) step(k, [&](const T* p) { return load_first<V>(p, length - k); });
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) dots[r][j] += lanes_sum<T, lanes>(sum[r][j]);
    }
}

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
