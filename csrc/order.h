// A class's weights in the order in which they are visited: roughly the largest first. Only as many are put in order as are needed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "chosen.h"
#include "lanes.h"
#include "squares.h"

constexpr int SHIFT = 19;        // magnitudes with the same bits above these are in one bucket: 16 buckets for each power of 2
constexpr float GAP = 0x1p-20f;  // weights that have decayed are smaller than the kept ones by at least this factor
constexpr int REACH = 2;         // so many powers of 2 are put in order at first, and after a gap; later it is one at a time
constexpr int BUCKETS = 16 * REACH + 1;
constexpr int64_t AHEAD = 8;     // places behind the last that may be read; what they hold has no meaning

// Memory that is not filled yet.
template <typename Value> std::unique_ptr<Value[]> unfilled(int64_t count) { return std::unique_ptr<Value[]>(new Value[count]); }

// The same for vectors. The calling thread keeps up to MOST bytes for its next call: memory that comes and goes between PyTorch's tensors
// makes the heap grow. Each `use` can exist once at a time.
template <int use> class Space {
public:
    explicit Space(int64_t count) {
        if (count * static_cast<int64_t>(sizeof(Floats)) > MOST) {
            own = unfilled<Floats>(count);
            values = own.get();
            return;
        }
        thread_local std::unique_ptr<Floats[]> held;
        thread_local int64_t room = 0;
        if (room < count) {
            held = nullptr;
            room = 0;  // in case the next line finds no memory
            held = unfilled<Floats>(count);
            room = count;
        }
        values = held.get();
    }

    Floats* get() const { return values; }
    Floats& operator[](int64_t n) const { return values[n]; }

private:
    static constexpr int64_t MOST = 1 << 23;
    std::unique_ptr<Floats[]> own;
    Floats* values;
};

// The bits of a float's magnitude. They have the order of the magnitudes, with infinity and NaN last.
inline int32_t magnitude_bits(float value) {
    int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits & 0x7fffffff;
}

inline float from_bits(int32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// The largest magnitude of some numbers; NaN or infinity if there is one among them.
inline float largest_magnitude(const float* values, int64_t count) {
    int32_t most = 0;
    for (int64_t i = 0; i < count; i++) most = std::max(most, magnitude_bits(values[i]));
    return from_bits(most);
}

// A class's row of weights. Where the mask is 0, a connection is pruned and may not be routed; the mask may be null.
struct Row {
    const float* weight;
    const uint8_t* mask;
    int64_t M;

    bool may_route(int64_t i) const { return !mask || mask[i]; }

    // The weights from i on, one a lane; 0 for those that are pruned or beyond the end.
    Floats operator[](int64_t i) const {
        const int64_t number = std::min(LANES, M - i);
        if (!mask) return number == LANES ? load(weight + i) : load(weight + i, number, 0);
        float values[LANES] = {};
        for (int64_t n = 0; n < number; n++) values[n] = mask[i + n] ? weight[i + n] : 0;
        return load(values);
    }
};

// Space in which the lists of a thread put weights in order, one list after the other.
struct Picked {
    std::unique_ptr<float[]> weight;
    std::unique_ptr<int32_t[]> index, bucket;

    explicit Picked(int64_t M)
        : weight(unfilled<float>(M + LANES)), index(unfilled<int32_t>(M + LANES)), bucket(unfilled<int32_t>(M + LANES)) {}
};

// Some weights of a class, in buckets by magnitude; within a bucket in the order of their indices. `grow` adds the next powers of 2.
class List {
public:
    int64_t count = 0;  // how many are in order so far
    float left = 0;     // the largest magnitude that is not in order yet
    bool fresh = true;  // nothing is in order yet, or what is in order is far larger than the rest
    std::vector<float> weight, gradient;  // gradients start at 0, and the backward pass adds to them
    std::vector<int32_t> index;

    // Starts with the weights of one sign.
    void start(Row its, float of_sign, Picked& space) {
        row = its;
        sign = of_sign;
        picked = &space;
        hold(0);
        Floats most = every(0);
        for (int64_t i = 0; i < row.M; i += LANES) most = larger(most, row[i] * every(sign));
        left = largest_lane(most);
        fresh = true;
    }

    // Starts with the weights that are 0; all of them are in the list at once.
    void start_zeros(Row its) {
        hold(0);
        for (int64_t i = 0; i < its.M; i++)
            if (its.weight[i] == 0 && its.may_route(i)) {
                hold(count + 1);
                index[count - 1] = static_cast<int32_t>(i);
            }
    }

    void grow() {
        const float limit = left / static_cast<float>(fresh ? 1 << REACH : 2);
        const Floats most = every(left), least = every(limit);
        const int32_t first = magnitude_bits(left) >> SHIFT;
        int32_t found = 0, places[BUCKETS] = {};
        Floats rest = every(0);
        for (int64_t i = 0; i < row.M; i += LANES) {
            const Floats values = row[i] * every(sign);
            rest = larger(rest, select(least >= values, values, every(0)));
            const Mask in = (values > least) & (most >= values);
            if (!any(in)) continue;
            append(in, floats_of(from(static_cast<int32_t>(i))), reinterpret_cast<float*>(&picked->index[found]));
            found += static_cast<int32_t>(append(in, values, &picked->weight[found]));
        }
        left = largest_lane(rest);
        fresh = left < GAP * limit;
        for (int32_t n = 0; n < found; n += LANES) {
            const Floats values = load(&picked->weight[n]);
            store(floats_of(every_whole(first) - upper_bits<SHIFT>(bits_of(values))), reinterpret_cast<float*>(&picked->bucket[n]));
            store(values * every(sign), &picked->weight[n]);
        }
        for (int32_t n = 0; n < found; n++) places[picked->bucket[n]]++;
        int32_t sum = static_cast<int32_t>(count);
        for (auto& place : places) {
            const int32_t number = place;
            place = sum;
            sum += number;
        }
        hold(count + found);
        for (int32_t n = 0; n < found; n++) {
            const int32_t place = places[picked->bucket[n]]++;
            weight[place] = picked->weight[n];
            index[place] = picked->index[n];
        }
    }

    // No weight from this place on has a larger magnitude.
    template <int parts> FloatsOf<parts> bound(int64_t j) const {
        return floats_of(bits_of(every<parts>(weight[j])) | every_whole<parts>((1 << SHIFT) - 1));
    }

private:
    Row row{};
    float sign = 1;
    Picked* picked = nullptr;

    // Makes room for so many; what is new is 0.
    void hold(int64_t number) {
        count = number;
        weight.resize(count);
        gradient.resize(count);
        index.resize(count + AHEAD);
    }
};

// The weights of a class: the positive ones, the negative ones if they can be routed, and under `exactly` those that are 0.
struct Class {
    List positive, negative, zero;
    int64_t certain = 0;  // the first so many positive weights are routed wherever the input is not 0: at most K, and far above the rest
    float rest = 0;       // the largest weight of the rest

    void start(Row row, bool both, bool exactly, Picked& space) {
        positive.start(row, 1, space);
        if (both) negative.start(row, -1, space);
        if (exactly) zero.start_zeros(row);
        certain = 0;
    }

    // Tests whether a class keeps at most K weights and the others have decayed.
    void find_gap(int64_t K) {
        // Infinity has no next power of 2, and such a row is not served here.
        while (positive.left > 0 && std::isfinite(positive.left) && positive.count <= K) {
            positive.grow();
            if (positive.fresh) break;
        }
        rest = positive.left;
        certain = positive.count <= K ? positive.count : 0;
    }
};
