// A class's weights in the order of their visits: about the largest first, and no further than they are asked for.
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

constexpr int SHIFT = 19;        // a bucket holds magnitudes alike in these upper bits: 16 buckets a power of 2
constexpr float GAP = 0x1p-20f;  // between weights that are kept and weights that have decayed
constexpr int REACH = 2;         // powers of 2 that are put in order first, and first after a gap; then it is one at a time
constexpr int BUCKETS = 16 * REACH + 1;
constexpr int64_t AHEAD = 8;     // places behind the last that may be looked up, but mean nothing

// Memory that nobody has filled yet.
template <typename Value> std::unique_ptr<Value[]> unfilled(int64_t count) { return std::unique_ptr<Value[]>(new Value[count]); }

// The same for vectors; up to MOST bytes the calling thread holds on to, for what comes and goes among PyTorch's tensors makes the heap
// grow. One of each use at a time.
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
            room = 0;  // if there is no memory for more
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

// The bits of a float's magnitude: they order as magnitudes do, infinity and NaN last.
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

// The largest magnitude of some numbers; NaN or infinity where one is.
inline float largest_magnitude(const float* values, int64_t count) {
    int32_t most = 0;
    for (int64_t i = 0; i < count; i++) most = std::max(most, magnitude_bits(values[i]));
    return from_bits(most);
}

// A class's row of weights; where the mask (or null) is 0 a connection is pruned and may not be routed.
struct Row {
    const float* weight;
    const uint8_t* mask;
    int64_t M;

    bool may_route(int64_t i) const { return !mask || mask[i]; }

    // As many weights as there are lanes, from i on; 0 for those that are pruned or beyond the end.
    Floats operator[](int64_t i) const {
        const int64_t number = std::min(LANES, M - i);
        if (!mask) return number == LANES ? load(weight + i) : load(weight + i, number, 0);
        float values[LANES] = {};
        for (int64_t n = 0; n < number; n++) values[n] = mask[i + n] ? weight[i + n] : 0;
        return load(values);
    }
};

// What the lists of a thread put in order one after the other.
struct Picked {
    std::unique_ptr<float[]> weight;
    std::unique_ptr<int32_t[]> index, bucket;

    explicit Picked(int64_t M)
        : weight(unfilled<float>(M + LANES)), index(unfilled<int32_t>(M + LANES)), bucket(unfilled<int32_t>(M + LANES)) {}
};

// Some weights of a class, by bucket of magnitude, and within a bucket as they come. `grow` brings the next powers of 2.
class List {
public:
    int64_t count = 0;  // of those in order so far
    float left = 0;     // the largest magnitude that is not
    bool fresh = true;  // nothing is in order yet, or all that is lies far above the rest
    std::vector<float> weight, gradient;  // gradients begin with 0: the backward pass adds them up
    std::vector<int32_t> index;

    // The weights of one sign.
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

    // The weights that are 0.
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

    // No weight from a place on is larger in magnitude.
    template <int parts> FloatsOf<parts> bound(int64_t j) const {
        return floats_of(bits_of(every<parts>(weight[j])) | every_whole<parts>((1 << SHIFT) - 1));
    }

private:
    Row row{};
    float sign = 1;
    Picked* picked = nullptr;

    // Room for so many, with zeros where there was less.
    void hold(int64_t number) {
        count = number;
        weight.resize(count);
        gradient.resize(count);
        index.resize(count + AHEAD);
    }
};

// The positive weights of a class, the negative ones where they can be routed, and for `exactly` those that are 0.
struct Class {
    List positive, negative, zero;
    int64_t certain = 0;  // so many positive weights, the first, are routed wherever the input is not 0: at most K, far above the rest
    float rest = 0;       // the largest of the rest

    void start(Row row, bool both, bool exactly, Picked& space) {
        positive.start(row, 1, space);
        if (both) negative.start(row, -1, space);
        if (exactly) zero.start_zeros(row);
        certain = 0;
    }

    // Looks whether a class keeps at most K weights, and the others have decayed.
    void find_gap(int64_t K) {
        // Infinity has no next power of 2, nor is it served here.
        while (positive.left > 0 && std::isfinite(positive.left) && positive.count <= K) {
            positive.grow();
            if (positive.fresh) break;
        }
        rest = positive.left;
        certain = positive.count <= K ? positive.count : 0;
    }
};
