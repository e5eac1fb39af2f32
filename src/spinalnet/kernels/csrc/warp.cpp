// A batch of images warped in one pass.
//
// The image is copied once into planes with a border of zeros, so that no pixel has to ask whether
// its neighbours exist; then the output is made block of rows by block of rows, in two steps of
// simple loops that the compiler can vectorise: where the pixels read, and what they read.
//
// This file is compiled without fused multiply-adds: coordinates have the same bits on every
// processor and as torch's own operations compute them, so that rounding to the nearest pixel never
// goes one way here and the other way there.

#include "warp.h"

#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

namespace spinalnet {
namespace SPINAL_ARCH {

void warp(const Warp& w);

namespace {

// Output values that justify one more thread: about 0.3 ms, more than ten times what it costs.
constexpr double kValuesPerThread = 1 << 17;

// Pixels of a block, unless one row has more: loops long enough that their ragged ends do not count
// (a row of 28 is not even two vectors), and 16 bytes per pixel that stay in the L1 cache.
constexpr index kBlockPixels = 512;

// Zeros around a plane. Coordinates are clamped to one pixel before the first and one behind the
// last, and bilinear sampling reads the pixel after that.
constexpr index kBefore = 1, kBehind = 2;

constexpr float kNowhere = std::numeric_limits<float>::quiet_NaN();

// Comparisons below are written so that NaN, "nowhere", stays NaN until it is clamped at the end.

void apply(const float* matrix, bool projective, index count, float* __restrict x,
           float* __restrict y) {
    const float a = matrix[0], b = matrix[1], c = matrix[2];
    const float d = matrix[3], e = matrix[4], f = matrix[5];
    const float g = matrix[6], h = matrix[7], i = matrix[8];
    for (index j = 0; j < count; ++j) {
        const float new_x = a * x[j] + (b * y[j] + c);
        const float new_y = d * x[j] + (e * y[j] + f);
        const float scale = projective ? 1.0f / (g * x[j] + (h * y[j] + i)) : 1.0f;
        x[j] = new_x * scale;
        y[j] = new_y * scale;
    }
}

void clamp(float low, float high, index count, float* values) {
    for (index j = 0; j < count; ++j) {
        const float value = values[j] < low ? low : values[j];
        values[j] = value > high ? high : value;
    }
}

// To the centre of the pixel, or nowhere.
void snap(float width, float height, index count, float* __restrict x, float* __restrict y) {
    for (index j = 0; j < count; ++j) {
        const float right = x[j] >= 0 ? x[j] : 0.0f, on_x = right < width ? right : 0.0f;
        const float below = y[j] >= 0 ? y[j] : 0.0f, on_y = below < height ? below : 0.0f;
        const float centre = (on_x == x[j]) & (on_y == y[j]) ? 0.5f : kNowhere;
        x[j] = static_cast<float>(static_cast<std::int32_t>(on_x)) + centre;
        y[j] = static_cast<float>(static_cast<std::int32_t>(on_y)) + centre;
    }
}

// Where the pixels of some rows of the output read an image.
void locate(const Warp& w, index image, index first_row, index rows, float* x, float* y) {
    const index count = rows * w.width;
    for (index row = 0; row < rows; ++row) {
        const float centre = static_cast<float>(first_row + row) + 0.5f;
        for (int j = 0; j < w.width; ++j) {
            x[row * w.width + j] = static_cast<float>(j) + 0.5f;
            y[row * w.width + j] = centre;
        }
    }
    for (index m = w.maps; m-- > 0;) {
        const Map& map = w.map[m];
        apply(map.matrix + 9 * image, map.projective, count, x, y);
        if (map.box) {
            const float* box = map.box + 4 * image;
            clamp(box[0], box[2], count, x);
            clamp(box[1], box[3], count, y);
        }
        if (map.nearest) {
            snap(static_cast<float>(w.width), static_cast<float>(w.height), count, x, y);
        }
    }
}

// From coordinates to places on a bordered plane: the pixel above and left of the point, counted
// from the first of the border, and how far the point is from it towards the next pixel.
void split(float size, index count, float* __restrict coordinates,
           std::int32_t* __restrict pixel) {
    for (index j = 0; j < count; ++j) {
        const float value = coordinates[j] - 0.5f;
        const float low = value > -1.0f ? value : -1.0f;  // NaN too: the border
        const float place = (low < size ? low : size) + static_cast<float>(kBefore);
        pixel[j] = static_cast<std::int32_t>(place);  // not negative: rounds down
        coordinates[j] = place - static_cast<float>(pixel[j]);
    }
}

// Scratch memory of one thread, and what it makes with it. `Source` is what the image is made of,
// `Target` what the planes and the result are made of.
template <class Source, class Target>
class Warper {
public:
    explicit Warper(const Warp& w)
        : w_(w),
          pitch_(w.width + kBefore + kBehind),
          plane_(pitch_ * (w.height + kBefore + kBehind)),
          block_(w.width < kBlockPixels ? kBlockPixels / w.width : 1),
          planes_(w.channels * plane_),
          x_(block_ * w.width),
          y_(block_ * w.width),
          column_(block_ * w.width),
          row_(block_ * w.width) {}

    void run(index image) {
        const index pixels = w_.height * w_.width;
        copy(static_cast<const Source*>(w_.source) + image * w_.channels * pixels);
        Target* out = static_cast<Target*>(w_.target) + image * w_.channels * pixels;
        for (index row = 0; row < w_.height; row += block_) {
            const index rows = block_ < w_.height - row ? block_ : w_.height - row;
            const index count = rows * w_.width;
            locate(w_, image, row, rows, x_.data(), y_.data());
            split(static_cast<float>(w_.width), count, x_.data(), column_.data());
            split(static_cast<float>(w_.height), count, y_.data(), row_.data());
            for (index channel = 0; channel < w_.channels; ++channel) {
                sample(planes_.data() + channel * plane_, count,
                       out + channel * pixels + row * w_.width);
            }
        }
    }

private:
    void copy(const Source* source) {
        for (index channel = 0; channel < w_.channels; ++channel) {
            Target* out = planes_.data() + channel * plane_ + kBefore * pitch_ + kBefore;
            for (index row = 0; row < w_.height; ++row, out += pitch_, source += w_.width) {
                for (index j = 0; j < w_.width; ++j) {
                    if constexpr (std::is_same<Source, Target>::value) {
                        out[j] = source[j];
                    } else {
                        out[j] = static_cast<Target>(source[j]) / 255;
                    }
                }
            }
        }
    }

    void sample(const Target* plane, index count, Target* __restrict out) const {
        const float *x = x_.data(), *y = y_.data();
        const std::int32_t *column = column_.data(), *row = row_.data();
        if (w_.map[0].nearest) {  // centres: nothing to interpolate
            for (index j = 0; j < count; ++j) out[j] = plane[row[j] * pitch_ + column[j]];
        } else if constexpr (std::is_same<Target, float>::value) {
            for (index j = 0; j < count; ++j) {
                const float* above = plane + row[j] * pitch_ + column[j];
                const float* below = above + pitch_;
                const float top = above[0] + x[j] * (above[1] - above[0]);
                const float bottom = below[0] + x[j] * (below[1] - below[0]);
                out[j] = top + y[j] * (bottom - top);
            }
        }
    }

    const Warp& w_;
    const index pitch_, plane_;
    const index block_;  // rows
    std::vector<Target> planes_;
    std::vector<float> x_, y_;
    std::vector<std::int32_t> column_, row_;
};

template <class Source, class Target>
void warp_all(const Warp& w) {
    const double values = static_cast<double>(w.images) * w.channels * w.height * w.width;
    const double useful = 1 + values / kValuesPerThread;
    const index threads = useful < w.threads ? static_cast<index>(useful) : w.threads;
    const index parts = threads < w.images ? threads : w.images;
    // Each part of the images in its own memory, so the result does not depend on their number.
    struct Context { const Warp& w; index parts; } const context{w, parts};
    parallel(static_cast<int>(parts), parts, [](const void* p, index part) {
        const Context& c = *static_cast<const Context*>(p);
        Warper<Source, Target> warper(c.w);
        const index end = c.w.images * (part + 1) / c.parts;
        for (index image = c.w.images * part / c.parts; image < end; ++image) warper.run(image);
    }, &context);
}

}  // namespace

void warp(const Warp& w) {
    if (w.images * w.channels * w.height * w.width == 0) return;
    if (!w.bytes) {
        warp_all<float, float>(w);
    } else if (w.map[0].nearest) {
        warp_all<std::uint8_t, std::uint8_t>(w);
    } else {
        warp_all<std::uint8_t, float>(w);
    }
}

}  // namespace SPINAL_ARCH
}  // namespace spinalnet
