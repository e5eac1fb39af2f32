// The register tile and the products around it against plain loops, for tests: every height and
// width of a tile, every tail, every way to hold an operand. The numbers are small integers, whose
// sums are exact in any order, so that results must be equal; memory beside a result must stay as
// it was.

#include <string>
#include <vector>

#include "batchwise.h"

namespace spinalnet {
namespace SPINAL_ARCH {
namespace {

constexpr int kGap = 3;  // elements between the end of a row and the next one

// A matrix of small integers with a gap behind every row.
template <class T>
struct Matrix {
    index rows, columns, stride;
    std::vector<T> values;

    Matrix(index rows, index columns, unsigned seed)
        : rows(rows), columns(columns), stride(columns + kGap), values(rows * stride + kGap) {
        for (T& value : values) {
            seed = seed * 1664525u + 1013904223u;
            value = static_cast<T>(static_cast<int>(seed >> 29) - 3);
        }
    }
    T* data() { return values.data(); }
    const T* data() const { return values.data(); }
    T& at(index i, index j) { return values[i * stride + j]; }
    T at(index i, index j) const { return values[i * stride + j]; }
};

template <class T>
Matrix<T> product(const Matrix<T>& a, const Matrix<T>& b) {
    Matrix<T> c(a.rows, b.columns, 0);
    for (index i = 0; i < c.rows; ++i) {
        for (index j = 0; j < c.columns; ++j) {
            c.at(i, j) = 0;
            for (index k = 0; k < a.columns; ++k) c.at(i, j) += a.at(i, k) * b.at(k, j);
        }
    }
    return c;
}

// What a `finish` is to do with the sum at (i, j).
template <class T>
T finished(const Finish<T>& f, T sum, index i, index j) {
    if (f.start) sum += f.start[i * f.start_stride + j];
    if (f.kind == Finish<T>::kGate) {
        return f.gate[i * f.gate_stride + j] > 0 ? sum : f.slope * sum;
    }
    if (f.kind == Finish<T>::kActivate) {
        sum = f.scale[j] * sum + f.shift[j];
        return sum > 0 ? sum : f.slope * sum;
    }
    return sum;
}

std::string name(const char* what, std::initializer_list<index> sizes) {
    std::string text = std::string(what) + " of";
    for (const index size : sizes) text += " " + std::to_string(size);
    return text;
}

// One tile: sum over the terms of a * b, with a row by row and interleaved.
template <class T, int Lanes>
std::string check_tile(int height, int vectors, index length, int count) {
    const int width = vectors * Lanes;
    std::vector<T> plain(height * width), interleaved(height * width), sums(height * width);
    std::vector<Matrix<T>> a, b;
    std::vector<std::vector<T>> strips;
    std::vector<Term<T>> terms, high;
    for (int t = 0; t < count; ++t) {
        a.emplace_back(height, length + t, 11 * t + height);
        b.emplace_back(length + t, width, 7 * t + vectors);
    }
    for (int t = 0; t < count; ++t) {
        const Matrix<T> c = product(a[t], b[t]);
        strips.emplace_back(a[t].columns * height);
        for (index k = 0; k < a[t].columns; ++k) {
            for (int i = 0; i < height; ++i) strips[t][k * height + i] = a[t].at(i, k);
        }
        for (int i = 0; i < height; ++i) {
            for (int j = 0; j < width; ++j) sums[i * width + j] += c.at(i, j);
        }
    }
    for (int t = 0; t < count; ++t) {
        terms.push_back({a[t].data(), a[t].stride, b[t].data(), b[t].stride, a[t].columns});
        high.push_back({strips[t].data(), height, b[t].data(), b[t].stride, a[t].columns});
    }
    tile<T, Lanes, false>(height, vectors, terms.data(), count, plain.data());
    tile<T, Lanes, true>(height, vectors, high.data(), count, interleaved.data());
    if (plain == sums && interleaved == sums) return "";
    return name("tile", {Lanes, height, vectors, length, count});
}

// c = finish(a * b) for every way to hold b and to finish.
template <class T>
std::string check_rows_product(index rows, index length, index columns) {
    const Matrix<T> a(rows, length, 1), b(length, columns, 2), start(rows, columns, 3);
    const Matrix<T> gate(rows, columns, 4), before(rows, columns, 5);
    const Matrix<T> affine(2, round_up(columns, kWide<T>), 6), expected = product(a, b);
    Matrix<T> transposed(columns, length, 0);
    for (index j = 0; j < columns; ++j) {
        for (index k = 0; k < length; ++k) transposed.at(j, k) = b.at(k, j);
    }
    const auto row = [&](index j) { return transposed.data() + j * transposed.stride; };
    const Operand<T> operands[] = {pack_rows(b.data(), b.stride, length, columns, false),
                                   pack_rows(b.data(), b.stride, length, columns, true),
                                   pack_transposed<T>(row, length, columns)};
    for (const Operand<T>& operand : operands) {
        for (int way = 0; way < 18; ++way) {
            Matrix<T> c = before;
            Finish<T> finish{c.data(), c.stride};
            if (way % 2) finish.start = start.data(), finish.start_stride = start.stride;
            finish.kind = static_cast<typename Finish<T>::Kind>(way / 2 % 3);
            finish.slope = static_cast<T>(way / 6);
            finish.scale = affine.data(), finish.shift = affine.data() + affine.stride;
            finish.gate = gate.data(), finish.gate_stride = gate.stride;
            const Product<T> term{a.data(), a.stride, &operand, length};
            rows_product(&term, 1, rows, columns, finish, way % 4 ? Keep::kPanel : Keep::kRows);
            Matrix<T> wanted = before;
            for (index i = 0; i < rows; ++i) {
                for (index j = 0; j < columns; ++j) {
                    wanted.at(i, j) = finished(finish, expected.at(i, j), i, j);
                }
            }
            if (c.values != wanted.values) {
                return name("rows_product", {rows, length, columns, &operand - operands, way});
            }
        }
    }
    return "";
}

// c (+)= a^T b, and the sums of the columns of a.
template <class T, int Lanes>
std::string check_columns_product(index rows, index a_columns, index columns) {
    const Matrix<T> a(rows, a_columns, 1), b(rows, columns, 2), before(a_columns, columns, 3);
    Matrix<T> transposed(a_columns, rows, 0), ones(1, rows, 0);
    for (index n = 0; n < rows; ++n) {
        ones.at(0, n) = 1;
        for (index i = 0; i < a_columns; ++i) transposed.at(i, n) = a.at(n, i);
    }
    const Matrix<T> expected = product(transposed, b), sums = product(ones, a);
    std::vector<T> strips(rows * a_columns);
    interleave(a.data(), a.stride, rows, a_columns, strips.data());
    const Operand<T> panels = pack_rows<T, Lanes>(b.data(), b.stride, rows, columns, true);
    for (const bool add : {false, true}) {
        Matrix<T> c = before, wanted = before;
        std::vector<T> totals(a_columns, 5);
        columns_product<T, Lanes>(strips.data(), a_columns, {panels.packed.data(), 0}, rows,
                                  columns, c.data(), c.stride, add);
        columns_sum(strips.data(), a_columns, rows, totals.data(), add);
        for (index i = 0; i < a_columns; ++i) {
            if (totals[i] != sums.at(0, i) + (add ? 5 : 0)) return name("columns_sum", {rows, i});
            for (index j = 0; j < columns; ++j) {
                wanted.at(i, j) = expected.at(i, j) + (add ? before.at(i, j) : T(0));
            }
        }
        if (c.values != wanted.values) {
            return name("columns_product", {Lanes, rows, a_columns, columns, add});
        }
    }
    return "";
}

// Neurons [1, neurons] of a layer with the batch along the vectors, from two factors, transposed
// back; the rows of the panels around them must stay as they were.
template <class T, int Lanes>
std::string check_batchwise(index batch, index length, index neurons) {
    const Matrix<T> x(batch, length + 1, 1), h(batch, neurons, 2), affine(2, neurons, 3);
    const Matrix<T> a(length, neurons, 4), b(neurons, neurons, 5), before(batch, neurons + 2, 6);
    const auto transposed = [](const Matrix<T>& m) {
        Matrix<T> t(m.columns, m.rows, 0);
        for (index i = 0; i < t.rows; ++i) {
            for (index j = 0; j < t.columns; ++j) t.at(i, j) = m.at(j, i);
        }
        return t;
    };
    const auto packed = [&](const Matrix<T>& m) {
        const auto row = [&](index n) { return m.data() + n * m.stride; };
        return pack_transposed<T, Lanes>(row, m.columns, batch);
    };
    const Matrix<T> a_rows = transposed(a), b_rows = transposed(b);
    Matrix<T> slice(batch, length, 0);
    for (index n = 0; n < batch; ++n) {
        for (index k = 0; k < length; ++k) slice.at(n, k) = x.at(n, k + 1);
    }
    const Matrix<T> from_x = product(slice, a), from_h = product(h, b);
    for (int slope = 0; slope < 3; ++slope) {
        const Operand<T> x_panels = packed(x), h_panels = packed(h), c_panels = packed(before);
        const Panels<T> c{c_panels.packed.data(), neurons + 2};
        const Factor<T> factors[] = {
            {a_rows.data(), a_rows.stride, {x_panels.packed.data(), length + 1}, 1, length},
            {b_rows.data(), b_rows.stride, {h_panels.packed.data(), neurons}, 0, neurons}};
        Finish<T> finish{};
        finish.scale = affine.data(), finish.shift = affine.data() + affine.stride;
        finish.slope = static_cast<T>(slope);
        batchwise_product<T, Lanes>(factors, 2, neurons, batch, c, 1, finish);
        Matrix<T> found = before, wanted = before;
        unpack_transposed<T, Lanes>(c, batch, found.data(), found.stride);
        finish.kind = Finish<T>::kActivate;
        for (index n = 0; n < batch; ++n) {
            for (index j = 0; j < neurons; ++j) {
                const T sum = from_x.at(n, j) + from_h.at(n, j);
                wanted.at(n, j + 1) = finished(finish, sum, n, j);
            }
        }
        if (found.values != wanted.values) {
            return name("batchwise_product", {Lanes, batch, length, neurons, slope});
        }
    }
    return "";
}

// The gradients of a layer with the batch along the vectors, from those of the logits and of the
// next layer, with and without a start; and the weight gradients and sums that follow from them.
template <class T, int BatchLanes, int Lanes>
std::string check_batchwise_gradients(index batch, index columns, index neurons) {
    const Matrix<T> start(batch, neurons, 1), gate(batch, neurons, 2), next(batch, 3, 3);
    const Matrix<T> logits(batch, 2, 4), out(2, neurons, 5), chain(3, neurons, 6);
    const Matrix<T> seen(batch, round_up(columns, Lanes), 7), before(neurons, columns, 8);
    const auto packed = [&](const Matrix<T>& m) {
        const auto row = [&](index n) { return m.data() + n * m.stride; };
        return pack_transposed<T, BatchLanes>(row, m.columns, batch);
    };
    const auto panels = [](const Operand<T>& operand, const Matrix<T>& m) {
        return Panels<T>{operand.packed.data(), m.columns};
    };
    const Matrix<T> from_logits = product(logits, out), from_next = product(next, chain);
    for (int way = 0; way < 6; ++way) {
        const Operand<T> starts = packed(start), gates = packed(gate), nexts = packed(next);
        const Operand<T> outputs = packed(logits), found = packed(start);
        const Panels<T> c = panels(found, start);
        const Factor<T> factors[] = {{out.data(), out.stride, panels(outputs, logits), 0, 2},
                                     {chain.data(), chain.stride, panels(nexts, next), 0, 3}};
        Finish<T> finish{};
        finish.slope = static_cast<T>(way / 2);
        Beside<T> add;
        if (way % 2) add.values = panels(starts, start);
        batchwise_product<T, BatchLanes, Finish<T>::kGate>(factors, 2, neurons, batch, c, 0, finish,
                                                           add, {panels(gates, gate), 0});
        Matrix<T> actual(batch, neurons, 0), wanted = actual;
        unpack_transposed<T, BatchLanes>(c, batch, actual.data(), actual.stride);
        for (index n = 0; n < batch; ++n) {
            for (index j = 0; j < neurons; ++j) {
                T sum = from_logits.at(n, j) + from_next.at(n, j);
                if (way % 2) sum += start.at(n, j);
                wanted.at(n, j) = gate.at(n, j) > 0 ? sum : finish.slope * sum;
            }
        }
        if (actual.values != wanted.values) {
            return name("batchwise gradient", {BatchLanes, batch, neurons, way});
        }
    }
    // Neurons [1, neurons): the gradients before them must not be taken along.
    const Operand<T> left = packed(start), copy = pack_rows<T, Lanes>(seen.data(), seen.stride,
                                                                      batch, columns, true);
    for (int way = 0; way < 4 && neurons > 1; ++way) {
        const Right<T> right = way / 2 ? Right<T>{seen.data(), seen.stride}
                                       : Right<T>{copy.packed.data(), 0};
        Matrix<T> c = before, wanted = before;
        std::vector<T> sums(neurons, 5), totals(neurons, way % 2 ? 5 : 0);
        batch_product<T, BatchLanes, Lanes>(panels(left, start), 1, neurons - 1, right, batch,
                                            columns, c.data(), c.stride, way % 2);
        batch_sum<T, BatchLanes>(panels(left, start), 1, neurons - 1, batch, sums.data(), way % 2);
        for (index j = 1; j < neurons; ++j) {
            for (index k = 0; k < columns; ++k) {
                T sum = way % 2 ? before.at(j - 1, k) : T(0);
                for (index n = 0; n < batch; ++n) sum += start.at(n, j) * seen.at(n, k);
                wanted.at(j - 1, k) = sum;
            }
            for (index n = 0; n < batch; ++n) totals[j - 1] += start.at(n, j);
            if (sums[j - 1] != totals[j - 1]) return name("batch_sum", {BatchLanes, batch, j});
        }
        if (c.values != wanted.values) {
            return name("batch_product", {BatchLanes, Lanes, batch, columns, neurons, way});
        }
    }
    return "";
}

template <class T, int R, int J>
std::string check_dots(index length) {
    const Matrix<T> a(R, length, 1), b(J, length, 2);
    T dots[R][J] = {};
    dot_tile(a.data(), a.stride, b.data(), b.stride, length, dots);
    for (int r = 0; r < R; ++r) {
        for (int j = 0; j < J; ++j) {
            T sum = 0;
            for (index k = 0; k < length; ++k) sum += a.at(r, k) * b.at(j, k);
            if (dots[r][j] != sum) return name("dot_tile", {R, J, length});
        }
    }
    return "";
}

template <class T>
std::string check_all() {
    std::string wrong;
    for (int height = 1; height <= kTileRows; ++height) {
        for (int vectors = 1; vectors <= kTileVectors; ++vectors) {
            for (index length = 0; length < 6; ++length) {
                for (int count = 1; count < 4; ++count) {
                    wrong = check_tile<T, kWide<T>>(height, vectors, length, count);
                    if (wrong.empty()) {
                        wrong = check_tile<T, kNarrow<T>>(height, vectors, length, count);
                    }
                    if (!wrong.empty()) return wrong;
                }
            }
        }
    }
    for (index rows = 1; rows <= 2 * kTileRows + 1; ++rows) {
        constexpr index most = (kTileVectors + 2) * kWide<T>;
        for (index columns = 1; columns <= most; columns += 1 + columns / 7) {
            for (const index length : {0, 1, 7, 18}) {
                wrong = check_rows_product<T>(rows, length, columns);
                if (wrong.empty()) {
                    wrong = check_columns_product<T, kWide<T>>(length + 1, rows, columns);
                }
                if (wrong.empty()) {
                    wrong = check_columns_product<T, kNarrow<T>>(length + 1, rows, columns);
                }
                if (wrong.empty()) wrong = check_batchwise<T, kWide<T>>(columns, length, rows);
                if (wrong.empty()) wrong = check_batchwise<T, kNarrow<T>>(columns, length, rows);
                if (wrong.empty() && length == 7) {
                    wrong = check_batchwise_gradients<T, kWide<T>, kNarrow<T>>(columns, rows, 9);
                    if (wrong.empty()) {
                        wrong = check_batchwise_gradients<T, kNarrow<T>, kWide<T>>(rows, columns,
                                                                                   3);
                    }
                }
                if (!wrong.empty()) return wrong;
            }
        }
    }
    for (index length = 0; length <= 2 * kWide<T> + 1 && wrong.empty(); ++length) {
        for (const auto check : {check_dots<T, 1, 1>, check_dots<T, 2, 4>, check_dots<T, 4, 4>}) {
            if (wrong.empty()) wrong = check(length);
        }
    }
    return wrong;
}

}  // namespace

std::string check() {
    const std::string wrong = check_all<float>();
    return wrong.empty() ? check_all<double>() : wrong;
}

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
