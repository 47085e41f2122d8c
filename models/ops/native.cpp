// Multi-scale deformable attention on a CPU, forward and backward, with the contract of definition.py.
//
// Built at the first use by models/ops/native_library.py and called through native.py. Nothing of C++'s own library is used,
// so that this loads beside whichever one is there already.
//
// Shape letters: B images, S positions over all levels, M heads, D channels of a head, Q queries, L levels, P points.
// Tensors are contiguous, in the shapes of definition.py. T computes; Stored is the type of value, result and their
// gradients.
//
// A task is one head of one image. It alone writes its part of every result, in the order of the queries, so nothing
// depends on the number of threads. Threads live for one call: a forked process finds none half alive.
//
// The rows of one head lie far apart in [S, M, D], which wastes most of a cache: a task first copies its head to a block
// [S, D] of its own. That pays from a few hundred queries on.

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

namespace {

constexpr int64_t MOST_THREADS = 64;
constexpr int64_t AHEAD = 4;  // queries

struct bfloat16 {
    uint16_t bits;
};

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(bfloat16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

inline void narrow(float x, float &to) { to = x; }
inline void narrow(double x, double &to) { to = x; }
inline void narrow(float x, bfloat16 &to) {  // to the nearest, ties to even; a NaN stays one
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to.bits = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

struct Sizes {
    int64_t images, positions, heads, channels, queries, levels, points;
};

// What a call works on. The gradients are there in the backward pass alone.
template <typename T, typename Stored>
struct Call {
    Sizes size;
    const int64_t *heights, *widths;
    const Stored *value;
    const T *locations, *weights;
    Stored *out;
    const Stored *grad_out;
    Stored *grad_value;
    T *grad_locations, *grad_weights;
};

// Memory of one thread.
template <typename T>
struct Block {
    T *value, *gradient;  // [S, D] of the head at work
    T *held;              // [D], for whatever needs it
};

// The four cells around a point, in the order top left, top right, bottom left, bottom right.
template <typename T>
struct Corners {
    T fx, fy;          // how far the point is from the centre of the top left cell, in cells
    T share[4];        // of the weight
    int64_t place[4];  // where their rows begin
    bool inside[4];
    bool all_inside;
};

template <typename T>
inline Corners<T> find_corners(const T *location, T weight, int64_t height, int64_t width, int64_t start,
                               int64_t channels) {
    Corners<T> c;
    // the roundings of grid_sample: at first every point sits on the centre of a cell, where the slope has two values;
    // volatile, since the compiler may exchange sums
    const volatile T across = 2 * location[0] - 1, down = 2 * location[1] - 1;
    const volatile T from_left = across + 1, from_top = down + 1;
    const T x = from_left * (T(width) / 2) - T(0.5), y = from_top * (T(height) / 2) - T(0.5);
    const T left = __builtin_floor(x), top = __builtin_floor(y);
    c.fx = x - left, c.fy = y - top;
    // compared before it becomes an integer: neither a NaN passes nor what no integer can hold
    const bool is_near = left >= -1 && left < T(width) && top >= -1 && top < T(height);
    const int64_t column = is_near ? int64_t(left) : -2, line = is_near ? int64_t(top) : -2;
    const bool is_left = column >= 0, is_right = is_near && column + 1 < width;
    const bool is_top = line >= 0, is_bottom = is_near && line + 1 < height;
    c.inside[0] = is_left && is_top, c.inside[1] = is_right && is_top;
    c.inside[2] = is_left && is_bottom, c.inside[3] = is_right && is_bottom;
    c.all_inside = is_left && is_right && is_top && is_bottom;
    c.place[0] = (start + line * width + column) * channels, c.place[1] = c.place[0] + channels;
    c.place[2] = c.place[0] + width * channels, c.place[3] = c.place[2] + channels;
    c.share[0] = weight * (1 - c.fx) * (1 - c.fy), c.share[1] = weight * c.fx * (1 - c.fy);
    c.share[2] = weight * (1 - c.fx) * c.fy, c.share[3] = weight * c.fx * c.fy;
    return c;
}

// Inlined by force: GCC takes a function that only asks for memory for one without effect, and drops its calls.
template <typename T>
__attribute__((always_inline)) inline void expect(const T *begin, int64_t count) {
    for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(begin + i);
}

// Ask for what a head needs of a later query: it lies too far apart for the processor to guess.
template <typename T, typename Stored>
__attribute__((always_inline)) inline void expect_query(const Call<T, Stored> &call, int64_t at) {
    const int64_t samples = call.size.levels * call.size.points, channels = call.size.channels;
    expect(call.locations + at * samples * 2, samples * 2);
    expect(call.weights + at * samples, samples);
    if (!call.grad_value) return;
    expect(call.grad_out + at * channels, channels);
    expect(call.grad_locations + at * samples * 2, samples * 2);
    expect(call.grad_weights + at * samples, samples);
}

template <typename T>
inline void add_sample(const Corners<T> &c, const T *value, int64_t channels, T *sum) {
    if (c.all_inside) {
        const T *v0 = value + c.place[0], *v1 = value + c.place[1], *v2 = value + c.place[2], *v3 = value + c.place[3];
#pragma omp simd
        for (int64_t d = 0; d < channels; ++d)
            sum[d] += c.share[0] * v0[d] + c.share[1] * v1[d] + c.share[2] * v2[d] + c.share[3] * v3[d];
        return;
    }
    if (c.fx != c.fx || c.fy != c.fy) {  // a point that is no number sees none: outside is another answer
        for (int64_t d = 0; d < channels; ++d) sum[d] += c.fx + c.fy;
        return;
    }
    for (int k = 0; k < 4; ++k) {
        if (!c.inside[k]) continue;
        const T *v = value + c.place[k];
#pragma omp simd
        for (int64_t d = 0; d < channels; ++d) sum[d] += c.share[k] * v[d];
    }
}

// The gradient of a result, [D], on its way back through one sample: `dot` becomes its product with each corner.
template <typename T>
inline void take_back_sample(const Corners<T> &c, const Block<T> &block, int64_t channels, const T *gradient, T dot[4]) {
    const T *value = block.value;
    T *to = block.gradient;
    if (c.all_inside) {
        const int64_t p0 = c.place[0], p1 = c.place[1], p2 = c.place[2], p3 = c.place[3];
        T dot0 = 0, dot1 = 0, dot2 = 0, dot3 = 0;
#pragma omp simd reduction(+ : dot0, dot1, dot2, dot3)
        for (int64_t d = 0; d < channels; ++d) {
            dot0 += gradient[d] * value[p0 + d], dot1 += gradient[d] * value[p1 + d];
            dot2 += gradient[d] * value[p2 + d], dot3 += gradient[d] * value[p3 + d];
            to[p0 + d] += c.share[0] * gradient[d], to[p1 + d] += c.share[1] * gradient[d];
            to[p2 + d] += c.share[2] * gradient[d], to[p3 + d] += c.share[3] * gradient[d];
        }
        dot[0] = dot0, dot[1] = dot1, dot[2] = dot2, dot[3] = dot3;
        return;
    }
    for (int k = 0; k < 4; ++k) {
        T sum = 0;
        if (c.inside[k]) {
            const int64_t place = c.place[k];
#pragma omp simd reduction(+ : sum)
            for (int64_t d = 0; d < channels; ++d) {
                sum += gradient[d] * value[place + d];
                to[place + d] += c.share[k] * gradient[d];
            }
        }
        dot[k] = sum;
    }
}

// CHANNELS is D where it is known when this is compiled, so that a row stays in registers; else 0.
template <typename T, typename Stored, int CHANNELS>
void forward_head(const Call<T, Stored> &call, int64_t image, int64_t head, const Block<T> &block) {
    const Sizes &s = call.size;
    const int64_t channels = CHANNELS ? CHANNELS : s.channels, samples = s.levels * s.points;
    T registers[CHANNELS ? CHANNELS : 1];
    T *sum = CHANNELS ? registers : block.held;
    for (int64_t q = 0; q < s.queries; ++q) {
        const int64_t at = (image * s.queries + q) * s.heads + head;
        const T *location = call.locations + at * samples * 2, *weight = call.weights + at * samples;
        if (q + AHEAD < s.queries) expect_query(call, at + AHEAD * s.heads);
        for (int64_t d = 0; d < channels; ++d) sum[d] = 0;
        for (int64_t l = 0, start = 0; l < s.levels; start += call.heights[l] * call.widths[l], ++l)
            for (int64_t p = 0; p < s.points; ++p, location += 2, ++weight)
                add_sample(find_corners(location, *weight, call.heights[l], call.widths[l], start, channels),
                           block.value, channels, sum);
        for (int64_t d = 0; d < channels; ++d) narrow(sum[d], call.out[at * channels + d]);
    }
}

template <typename T, typename Stored, int CHANNELS>
void backward_head(const Call<T, Stored> &call, int64_t image, int64_t head, const Block<T> &block) {
    const Sizes &s = call.size;
    const int64_t channels = CHANNELS ? CHANNELS : s.channels;
    T registers[CHANNELS ? CHANNELS : 1];
    T *gradient = CHANNELS ? registers : block.held;
    for (int64_t q = 0; q < s.queries; ++q) {
        const int64_t at = (image * s.queries + q) * s.heads + head;
        int64_t sample = at * s.levels * s.points;
        if (q + AHEAD < s.queries) expect_query(call, at + AHEAD * s.heads);
        for (int64_t d = 0; d < channels; ++d) gradient[d] = widen(call.grad_out[at * channels + d]);
        for (int64_t l = 0, start = 0; l < s.levels; start += call.heights[l] * call.widths[l], ++l)
            for (int64_t p = 0; p < s.points; ++p, ++sample) {
                const int64_t height = call.heights[l], width = call.widths[l];
                const T *location = call.locations + 2 * sample, weight = call.weights[sample];
                const Corners<T> c = find_corners(location, weight, height, width, start, channels);
                T dot[4];
                take_back_sample(c, block, channels, gradient, dot);
                const T top = dot[0] + c.fx * (dot[1] - dot[0]), bottom = dot[2] + c.fx * (dot[3] - dot[2]);
                const T left = dot[0] + c.fy * (dot[2] - dot[0]), right = dot[1] + c.fy * (dot[3] - dot[1]);
                call.grad_weights[sample] = top + c.fy * (bottom - top);
                call.grad_locations[2 * sample] = weight * T(width) * (right - left);
                call.grad_locations[2 * sample + 1] = weight * T(height) * (bottom - top);
            }
    }
}

template <typename T, typename Stored>
using Head = void (*)(const Call<T, Stored> &, int64_t image, int64_t head, const Block<T> &);

// What the threads of a call share.
template <typename T, typename Stored>
struct Work {
    const Call<T, Stored> *call;
    Head<T, Stored> head;
    int64_t next;
    int failed;
};

template <typename T, typename Stored>
void run_task(const Call<T, Stored> &call, Head<T, Stored> head, int64_t task, const Block<T> &block) {
    const Sizes &s = call.size;
    const int64_t image = task / s.heads, which = task % s.heads, row = s.heads * s.channels;
    const int64_t first = image * s.positions * row + which * s.channels;
    for (int64_t i = 0; i < s.positions; ++i)
        for (int64_t d = 0; d < s.channels; ++d)
            block.value[i * s.channels + d] = widen(call.value[first + i * row + d]);
    if (call.grad_value) memset(block.gradient, 0, s.positions * s.channels * sizeof(T));
    head(call, image, which, block);
    if (!call.grad_value) return;
    for (int64_t i = 0; i < s.positions; ++i)
        for (int64_t d = 0; d < s.channels; ++d)
            narrow(block.gradient[i * s.channels + d], call.grad_value[first + i * row + d]);
}

template <typename T, typename Stored>
void *work(void *given) {
    Work<T, Stored> &work = *static_cast<Work<T, Stored> *>(given);
    const Sizes &s = work.call->size;
    const int64_t size = s.positions * s.channels, blocks = work.call->grad_value ? 2 : 1;
    void *memory;
    if (posix_memalign(&memory, 64, (blocks * size + s.channels) * sizeof(T))) {
        work.failed = 1;
        return nullptr;
    }
    T *held = static_cast<T *>(memory), *value = held + s.channels;
    const Block<T> block = {value, value + (blocks - 1) * size, held};
    for (int64_t task; (task = __atomic_fetch_add(&work.next, 1, __ATOMIC_RELAXED)) < s.images * s.heads;)
        run_task(*work.call, work.head, task, block);
    free(memory);
    return nullptr;
}

// A thread that cannot be started leaves its share to the others.
template <typename T, typename Stored>
int run(const Call<T, Stored> &call, Head<T, Stored> head, int64_t threads) {
    Work<T, Stored> shared = {&call, head, 0, 0};
    const int64_t tasks = call.size.images * call.size.heads;
    threads = threads < tasks ? threads : tasks;
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    pthread_t others[MOST_THREADS];
    int64_t started = 0;
    while (started + 1 < threads && !pthread_create(&others[started], nullptr, work<T, Stored>, &shared)) ++started;
    work<T, Stored>(&shared);
    for (int64_t i = 0; i < started; ++i) pthread_join(others[i], nullptr);
    return shared.failed;
}

}  // namespace

#define CHOOSE(PASS, T, STORED, CHANNELS)                                                                           \
    (CHANNELS == 16   ? PASS<T, STORED, 16>                                                                         \
     : CHANNELS == 32 ? PASS<T, STORED, 32>                                                                         \
     : CHANNELS == 64 ? PASS<T, STORED, 64>                                                                         \
                      : PASS<T, STORED, 0>)

// 0, or 1 where there is no memory.
#define ENTRIES(NAME, T, STORED)                                                                                     \
    extern "C" int forward_##NAME(const Sizes *size, const int64_t *heights, const int64_t *widths,                  \
                                  const STORED *value, const T *locations, const T *weights, STORED *out,            \
                                  int64_t threads) {                                                                 \
        const Call<T, STORED> call = {*size, heights, widths, value, locations, weights, out,                        \
                                      nullptr, nullptr, nullptr, nullptr};                                           \
        return run<T, STORED>(call, CHOOSE(forward_head, T, STORED, size->channels), threads);                       \
    }                                                                                                                \
    extern "C" int backward_##NAME(const Sizes *size, const int64_t *heights, const int64_t *widths,                 \
                                   const STORED *value, const T *locations, const T *weights,                        \
                                   const STORED *grad_out, STORED *grad_value, T *grad_locations, T *grad_weights,   \
                                   int64_t threads) {                                                                \
        const Call<T, STORED> call = {*size,   heights,  widths,     value,          locations,   weights,           \
                                      nullptr, grad_out, grad_value, grad_locations, grad_weights};                  \
        return run<T, STORED>(call, CHOOSE(backward_head, T, STORED, size->channels), threads);                      \
    }

ENTRIES(float32, float, float)
ENTRIES(float64, double, double)
ENTRIES(bfloat16, float, bfloat16)
