// Tiles serve small K, and weights most of which have decayed. A tile is a group of inputs, one a lane, that go through the weights of
// a class together, the largest weights first.
//
// A lane is done when it can find no larger product: when the next weight times the lane's largest input is below its K-th product.
// The tile is done when all its lanes are. Where a class keeps at most K weights, and the others have decayed so far that their
// products change no sum, the forward pass does not look at those others; the backward pass does.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

#include "order.h"
#include "problem.h"
#include "threads.h"

namespace tiles {

constexpr int64_t STEP = 4;  // so many weights are visited between two tests of the bound
constexpr int64_t CACHE_LINE = 64;
#ifndef SORTED
#define SORTED 16  // each number up to this is compiled separately; tests under sanitizers ask for fewer
#endif
constexpr int MOST = SORTED;     // so many products of a lane can be kept sorted
constexpr int FEW = 2;           // so few products are sorted without a test whether that is needed: the branch would cost more
constexpr float LOST = 0x1p-26f;  // a term smaller than this part of the sum is lost in rounding
constexpr int SOUGHT = std::min(MOST, 8);  // the backward pass itself finds at most so many products of a lane
constexpr int64_t NEVER = -1;  // as `later`: everything has to be found now
constexpr int32_t VISITS = 255;  // these bits of a sorted product tell at which visit it was found

// Calls work with the constants 0 to number - 1: what they index stays in registers.
template <int64_t number, typename Work> ALWAYS_INLINE void each(Work work) {
    if constexpr (number > 0) {
        each<number - 1>(work);
        work(std::integral_constant<int64_t, number - 1>{});
    }
}

// The inputs (B, M) as tiles: tile t holds M vectors, whose lanes are the inputs LANES t, LANES t + 1, ...; missing inputs are 0.
struct Tiles {
    int64_t count, M;
    Space<0> x;
    std::unique_ptr<Floats[]> highest, lowest;
    std::unique_ptr<float[]> magnitude;  // the largest magnitude of each tile

    explicit Tiles(const Problem& problem)
        : count(problem.tiles()), M(problem.M), x(count * M), highest(unfilled<Floats>(count)),
          lowest(unfilled<Floats>(count)), magnitude(unfilled<float>(count)) {
        split(count, problem.threads, [&](int64_t, int64_t first, int64_t last) {
            for (int64_t t = first; t < last; t++) pack(problem, t);
        });
    }

    float peak() const { return largest_magnitude(magnitude.get(), count); }

    bool some_negative() const {
        return std::any_of(&lowest[0], &lowest[count], [](const Floats& low) { return any(every(-TINY) >= low); });
    }

private:
    void pack(const Problem& problem, int64_t t) {
        Floats* tile = &x[t * M];
        rows_to_lanes(problem.input(t * LANES), M, M, problem.lanes(t), tile);
        Floats high = every(0), low = every(0);
        Wholes most = magnitudes(high);
        for (int64_t i = 0; i < M; i++) {
            high = larger(high, tile[i]);
            low = smaller(low, tile[i]);
            most = larger(most, magnitudes(tile[i]));
        }
        highest[t] = high;
        lowest[t] = low;
        const Floats largest = floats_of(most);
        magnitude[t] = largest_magnitude(reinterpret_cast<const float*>(&largest), LANES);
    }
};

// Calls look(list, place, number, state) for the places of a list, a few at a time, until no further product can reach guard(state).
// The guard may rise while this goes on. `peak` is each lane's largest input of that sign.
template <bool exactly, int parts, typename State, typename Guard, typename Look>
ALWAYS_INLINE void sweep(List& list, int64_t from, const Floats* tile, FloatsOf<parts> peak, float sign, State& state, Guard guard,
                         Look look) {
    const auto over = [&](FloatsOf<parts> bound, const State& now) INLINED {
        FloatsOf<parts> reach = peak * bound, least = guard(now);
        // A guard below 0 allows no such bound: among negative products the small weights have the largest.
        if (exactly) reach = select(least > every<parts>(0), reach, least);
        return !any(reach >= least);
    };
    for (int64_t j = from;;) {
        State now = state;  // a copy: it can stay in registers, for no call gets its address
        bool done = false;
        for (; j + STEP <= list.count && !(done = over(list.template bound<parts>(j), now)); j += STEP) {
            each<STEP>([&](auto n) INLINED {
                const auto* next = reinterpret_cast<const char*>(&tile[list.index[j + AHEAD + n]]);
                each<sizeof(Floats) / CACHE_LINE>([&](auto line) INLINED { __builtin_prefetch(next + line * CACHE_LINE); });
            });
            look(list, j, std::integral_constant<int64_t, STEP>{}, now);
        }
        done = done || (j < list.count && over(list.template bound<parts>(j), now));
        for (; j < list.count && !done; j++) look(list, j, std::integral_constant<int64_t, 1>{}, now);
        state = now;
        if (done || !(list.left > 0) || over(every<parts>(sign * list.left), state)) return;
        list.grow();
    }
}

// Calls look(list, place, number, state) for all weights of a class whose products can reach guard(state), without the first `routed`
// positive ones.
template <bool exactly, typename State, typename Guard, typename Look>
ALWAYS_INLINE void visit(Class& its, int64_t routed, const Tiles& tiles, int64_t t, State& state, Guard guard, Look look) {
    const Floats* tile = &tiles.x[t * tiles.M];
    sweep<exactly>(its.positive, routed, tile, tiles.highest[t], 1, state, guard, look);
    sweep<exactly>(its.negative, 0, tile, tiles.lowest[t], -1, state, guard, look);
    if (!exactly || !any(every(0) >= guard(state))) return;
    for (int64_t j = 0; j < its.zero.count; j++) look(its.zero, j, std::integral_constant<int64_t, 1>{}, state);
}

// What is known of each lane before its other products are sorted.
struct Begun {
    Floats sum, least;  // the sum of the products that are certainly routed, and the least of them
    Floats wanted;      // how many more products may be routed
};

// The largest products of each lane, the largest first, and the largest product that fell out of them.
template <int K, int parts = PARTS> struct Sorted {
    WholesOf<parts> keys[K], lost;
};

// Keeps the `wanted` largest products of each lane sorted, MOST at most. The only branch is the early stop.
template <int K, bool exactly>
void insert(const Problem& problem, Class& its, const Begun& begun, const Tiles& tiles, int64_t c, int64_t t, Found& found) {
    const Floats* tile = &tiles.x[t * tiles.M];
    const Floats floor = every(floor_of(exactly)), unwanted = every(K) - begun.wanted;
    Sorted<K> sorted;
    sorted.lost = key<exactly>(floor);
    each<K>([&](auto k) INLINED { sorted.keys[k] = key<exactly>(select(unwanted > every(k), every(-LOWEST), floor)); });
    const auto guard = [](const Sorted<K>& now) INLINED {
        const Floats last = value<exactly>(now.keys[K - 1]);
        return exactly ? last : larger(last, every(TINY));
    };
    const auto look = [&](const List& list, int64_t j, auto number, Sorted<K>& now) INLINED {
        Wholes products[number()];
        each<number()>([&](auto n) INLINED { products[n] = key<exactly>(tile[list.index[j + n]] * every(list.weight[j + n])); });
        if constexpr (K > FEW) {
            Wholes most = products[0];
            each<number()>([&](auto n) INLINED { most = larger(most, products[n]); });
            if (!any(value<exactly>(most) >= guard(now))) return;
        }
        each<number()>([&](auto n) INLINED { now.lost = larger(now.lost, sift<0>(now.keys, products[n])); });
    };
    visit<exactly>(its, its.certain, tiles, t, sorted, guard, look);
    Floats top[K];  // a copy: the keys themselves then need no place in memory
    each<K>([&](auto k) INLINED { top[k] = value<exactly>(sorted.keys[k]); });
    found.sum = begun.sum;
    found.tau = top[K - 1];
    for (int k = 0; k < K; k++) found.sum = add_where((top[k] > floor) & (every(-LOWEST) > top[k]), found.sum, top[k]);
    const Mask certain = found.tau == every(-LOWEST);
    found.tau = select(certain, begun.least, found.tau);
    std::fill_n(found.last, LANES, static_cast<int32_t>(problem.M));
    const Mask tied = (value<exactly>(sorted.lost) == found.tau) & (found.tau > floor) & ~certain;
    const uint32_t inputs = static_cast<uint32_t>((uint64_t{1} << problem.lanes(t)) - 1);
    for (uint32_t left = bits(tied) & inputs; left; left &= left - 1) {
        const int64_t b = __builtin_ctz(left);
        int64_t wanted = 0;
        for (int k = 0; k < K; k++) wanted += lane(top[k], b) == lane(found.tau, b);
        found.last[b] = last_index(problem, c, t * LANES + b, lane(found.tau, b), wanted);
    }
}

template <bool exactly, int... below>
void insert_any(std::integer_sequence<int, below...>, int64_t wanted, const Problem& problem, Class& its, const Begun& begun,
                const Tiles& tiles, int64_t c, int64_t t, Found& found) {
    constexpr void (*with[])(const Problem&, Class&, const Begun&, const Tiles&, int64_t, int64_t, Found&) = {
        insert<below + 1, exactly>...};
    with[wanted - 1](problem, its, begun, tiles, c, t, found);
}

// Sums the products of the certain weights: those that are routed wherever their input is not 0.
ALWAYS_INLINE Begun begin(const Problem& problem, const Class& its, const Tiles& tiles, int64_t t) {
    const Floats* tile = &tiles.x[t * tiles.M];
    Begun begun{every(0), every(-LOWEST), every(static_cast<float>(problem.K))};
    for (int64_t j = 0; j < its.certain; j++) {
        const Floats product = tile[its.positive.index[j]] * every(its.positive.weight[j]);
        const Mask in = product > every(0);
        begun.sum = begun.sum + product;
        begun.least = select(in, smaller(begun.least, product), begun.least);
        begun.wanted = add_where(in, begun.wanted, every(-1));
    }
    if (its.certain) begun.wanted = select(tiles.highest[t] > every(0), begun.wanted, every(0));
    return begun;
}

// Finds what is routed of a class and a tile. Weights that have decayed are not looked at if they change no sum and each lane routes at
// most `later` of them; `last` is then LATER. Returns false if more than MOST products would have to be sorted.
template <bool exactly>
bool find(const Problem& problem, Class& its, const Tiles& tiles, int64_t c, int64_t t, int64_t later, Found& found) {
    const Begun begun = begin(problem, its, tiles, t);
    const Floats reach = tiles.highest[t] * every(its.rest);
    // All other products must be smaller than the certain ones.
    if (its.certain && any(reach >= begun.least)) return false;
    const auto wanted = static_cast<int64_t>(largest_lane(begun.wanted));
    if (its.certain && wanted <= later && !any((begun.wanted > every(0)) & (reach >= begun.sum * every(LOST)))) {
        found.sum = begun.sum;
        found.tau = every(0);
        std::fill_n(found.last, LANES, LATER);
        return true;
    }
    if (wanted > MOST) return false;
    const auto upto = std::make_integer_sequence<int, MOST>{};
    insert_any<exactly>(upto, std::max<int64_t>(wanted, FEW), problem, its, begun, tiles, c, t, found);
    if (its.certain) found.tau = select(tiles.highest[t] > every(0), found.tau, every(floor_of(exactly)));
    return true;
}

// What the forward pass kept of a class and a tile: the routed products are those of at least tau, `wanted` of them.
struct Kept {
    Floats tau, last, wanted;
    bool ties;  // whether `last` has to be compared

    Kept(const Problem& problem, int64_t lanes, const float* tau_B, const int32_t* last_B, Floats wanted)
        : tau(lanes == LANES ? load(tau_B) : load(tau_B, lanes, -LOWEST)),  // a lane without an input routes nothing
          last(every(0)), wanted(wanted), ties(false) {
        for (int64_t b = 0; b < lanes; b++) ties |= last_B[b] < problem.M;
        for (int64_t b = 0; ties && b < lanes; b++) set_lane(last, b, static_cast<float>(last_B[b]));
    }
};

// What a lane's products must reach, and how many more of them are routed. Once all are found, the guard is infinite.
struct Sought {
    Floats guard, left;
};

// Adds the routed products to the gradients, without the first `done` positive weights.
template <bool exactly, bool ties>
void add_kept(Class& its, int64_t done, const Tiles& tiles, int64_t t, const Kept& kept, Floats gy, Floats* of_x) {
    const Floats* tile = &tiles.x[t * tiles.M];
    const Floats least = exactly ? kept.tau : larger(kept.tau, every(TINY));
    Sought sought{select(kept.wanted > every(0), least, every(-LOWEST)), kept.wanted};
    const auto add = [&](List& list, int64_t j, auto number, Sought& now) INLINED {
        Mask routed[number()], some{};
        each<number()>([&](auto n) INLINED {
            const int32_t i = list.index[j + n];
            const Floats product = tile[i] * every(list.weight[j + n]);
            routed[n] = product >= now.guard;
            if (ties) routed[n] = routed[n] & ((product > kept.tau) | (kept.last >= every(static_cast<float>(i))));
            some = some | routed[n];
        });
        if (!any(some)) return;
        Floats of_weight[number()];
        each<number()>([&](auto n) INLINED {
            const int32_t i = list.index[j + n];
            const Floats its_gy = select(routed[n], gy, every(0));
            of_weight[n] = its_gy * tile[i];
            of_x[i] = multiply_add(its_gy, every(list.weight[j + n]), of_x[i]);
            now.left = add_where(routed[n], now.left, every(-1));
        });
        add_sums(of_weight, &list.gradient[j]);
        now.guard = select(now.left > every(0), now.guard, every(-LOWEST));
    };
    visit<exactly>(its, done, tiles, t, sought, [](const Sought& now) INLINED { return now.guard; }, add);
}

// Finds the `wanted` largest products of some lanes, K at most, among the weights that are not certain, and adds them to the gradients.
// While products are sorted, their lowest bits tell at which visit they were found. Returns false, and adds nothing, where these bits do
// not suffice: two products are about the same, or very many weights were visited.
template <int K, typename Lanes>
bool add_found(Class& its, const Lanes& lanes, const Floats& wanted, const Tiles& tiles, int64_t t, const Floats& gy, Floats* of_x) {
    constexpr int parts = Lanes::parts;
    using Some = FloatsOf<parts>;
    using Keys = Sorted<K, parts>;
    const Some nothing = every<parts>(0), unwanted = every<parts>(K) - lanes.of(wanted), without_end = every<parts>(-LOWEST);
    const Floats* tile = &tiles.x[t * tiles.M];
    List& list = its.positive;
    bool many = false;
    Keys sorted;
    sorted.lost = bits_of(nothing);
    each<K>([&](auto k) INLINED { sorted.keys[k] = bits_of(select(unwanted > every<parts>(k), without_end, nothing)); });
    const auto product_of = [](WholesOf<parts> key) INLINED { return floats_of(key & every_whole<parts>(~VISITS)); };
    const auto guard = [&](const Keys& now) INLINED { return larger(product_of(now.keys[K - 1]), every<parts>(TINY)); };
    const auto look = [&](const List&, int64_t j, auto number, Keys& now) INLINED {
        const auto visit = static_cast<int32_t>(j - its.certain) + 1;
        many |= visit + number() > VISITS;
        WholesOf<parts> keys[number()];
        each<number()>([&](auto n) INLINED {
            const auto product = bits_of(lanes.of(tile[list.index[j + n]]) * every<parts>(list.weight[j + n]));
            // 0 remains 0.
            keys[n] = (product & every_whole<parts>(~VISITS)) | smaller(product, every_whole<parts>(visit + n));
        });
        if constexpr (K > FEW) {
            WholesOf<parts> most = keys[0];
            each<number()>([&](auto n) INLINED { most = larger(most, keys[n]); });
            if (!any(floats_of(most) >= guard(now))) return;
        }
        each<number()>([&](auto n) INLINED { now.lost = larger(now.lost, sift<0>(now.keys, keys[n])); });
    };
    sweep<false>(list, its.certain, tile, lanes.of(tiles.highest[t]), 1, sorted, guard, look);
    const auto is_found = [&](WholesOf<parts> key) INLINED { return (floats_of(key) > nothing) & (without_end > floats_of(key)); };
    auto unsure = is_found(sorted.keys[K - 1]) & (product_of(sorted.keys[K - 1]) == product_of(sorted.lost));
    // A subnormal product may have no other bits than these.
    each<K>([&](auto k) INLINED { unsure = unsure | (is_found(sorted.keys[k]) & (product_of(sorted.keys[k]) == nothing)); });
    if (many || any(unsure)) return false;
    for (const auto& keys : sorted.keys)
        for (uint32_t left = bits(is_found(keys)); left; left &= left - 1) {
            const int64_t n = __builtin_ctz(left), b = lanes[n];
            const int64_t j = its.certain + (lane(keys, n) & VISITS) - 1, i = list.index[j];
            set_lane(of_x[i], b, lane(of_x[i], b) + lane(gy, b) * list.weight[j]);
            list.gradient[j] += lane(gy, b) * lane(tile[i], b);
        }
    return true;
}

template <int... below>
bool add_any(std::integer_sequence<int, below...>, int64_t most, Class& its, const Floats& wanted, const Tiles& tiles, int64_t t,
             const Floats& gy, Floats* of_x) {
    constexpr bool (*of_all[])(Class&, const All&, const Floats&, const Tiles&, int64_t, const Floats&, Floats*) = {
        add_found<below + 1, All>...};
    constexpr bool (*of_few[])(Class&, const Chosen&, const Floats&, const Tiles&, int64_t, const Floats&, Floats*) = {
        add_found<below + 1, Chosen>...};
    const int64_t at = std::max<int64_t>(most, FEW) - 1;
    const Mask lanes = wanted > every(0);
    if (__builtin_popcount(bits(lanes)) > WIDTH) return of_all[at](its, All(), wanted, tiles, t, gy, of_x);
    return of_few[at](its, Chosen(lanes), wanted, tiles, t, gy, of_x);
}

// Adds the certain weights' products to the gradients; returns how many more products each lane routes.
inline Floats add_certain(const Problem& problem, Class& its, const Tiles& tiles, int64_t t, const Floats& gy, Floats* of_x) {
    const Floats* tile = &tiles.x[t * tiles.M];
    List& list = its.positive;
    Floats wanted = every(static_cast<float>(problem.K));
    const auto add = [&](int64_t j, auto number) INLINED {
        Floats of_weight[number()];
        each<number()>([&](auto n) INLINED {
            const int32_t i = list.index[j + n];
            const Mask routed = tile[i] * every(list.weight[j + n]) > every(0);
            const Floats its_gy = select(routed, gy, every(0));
            of_weight[n] = its_gy * tile[i];
            of_x[i] = multiply_add(its_gy, every(list.weight[j + n]), of_x[i]);
            wanted = add_where(routed, wanted, every(-1));
        });
        add_sums(of_weight, &list.gradient[j]);
    };
    int64_t j = 0;
    for (; j + STEP <= its.certain; j += STEP) add(j, std::integral_constant<int64_t, STEP>{});
    for (; j < its.certain; j++) add(j, std::integral_constant<int64_t, 1>{});
    return select(tiles.highest[t] > every(0), wanted, every(0));
}

// Adds one class and one tile to the gradients.
template <bool exactly>
void add_gradients(const Problem& problem, Class& its, const Tiles& tiles, int64_t c, int64_t t, const float* tau_OB,
                   const int32_t* last_OB, const Floats& gy, Floats* of_x) {
    const int64_t at = c * problem.B + t * LANES, lanes = problem.lanes(t);
    const auto add = [&](int64_t done, const Kept& kept) {
        kept.ties ? add_kept<exactly, true>(its, done, tiles, t, kept, gy, of_x)
                  : add_kept<exactly, false>(its, done, tiles, t, kept, gy, of_x);
    };
    if (last_OB[at] != LATER) return add(0, {problem, lanes, tau_OB + at, last_OB + at, every(static_cast<float>(problem.K))});
    const Floats wanted = add_certain(problem, its, tiles, t, gy, of_x);
    const auto most = static_cast<int64_t>(largest_lane(wanted));
    if (!most || add_any(std::make_integer_sequence<int, SOUGHT>{}, most, its, wanted, tiles, t, gy, of_x)) return;
    Found found;
    find<exactly>(problem, its, tiles, c, t, NEVER, found);  // true: the forward pass has already tested what could make it false
    add(its.certain, {problem, lanes, reinterpret_cast<const float*>(&found.tau), found.last, wanted});
}

}  // namespace tiles
