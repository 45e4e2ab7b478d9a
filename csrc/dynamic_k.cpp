// The Dynamic-K sum and its gradients on a CPU (Algorithm 2; SPEC sections 1 and 8), without the B*O*M products.
//
// Sixteen inputs, the lanes of a tile, advance together through the weights of a class, largest first. A lane that cannot
// find a larger product any more (the next weight times the lane's largest input is below its K-th product) is done; when all
// are, so is the tile. Only each lane's K-th product (tau) and the last index routed among its equals are kept: the backward
// pass finds the routed set again from them. Where a number is not finite, or a sum could overflow, it says so and stops:
// those are the caller's.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t LANES = 16;
constexpr int BUCKETS = 64;
constexpr int64_t STEP = 4;           // visits between two looks at the bound
constexpr int64_t INSERTED = 32;      // up to this K the largest products are kept sorted; above it they are counted
constexpr int64_t SMALL = 1 << 21;    // products below which a second thread costs more than it brings
enum Outcome { DONE = 0, OUT_OF_MEMORY = 1, NOT_FINITE = 2 };
constexpr float TINY = std::numeric_limits<float>::denorm_min();
constexpr float LOWEST = -std::numeric_limits<float>::infinity();

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

inline Floats every(float value) { return Floats{} + value; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats smaller(Floats a, Floats b) { return a > b ? b : a; }

inline bool any_at_least(Floats a, Floats b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ) != 0;
#elif defined(__AVX__)
    __m256 half[2][2];
    std::memcpy(half[0], &a, sizeof a);
    std::memcpy(half[1], &b, sizeof b);
    __m256 low = _mm256_cmp_ps(half[0][0], half[1][0], _CMP_GE_OQ);
    __m256 high = _mm256_cmp_ps(half[0][1], half[1][1], _CMP_GE_OQ);
    return _mm256_movemask_ps(_mm256_or_ps(low, high)) != 0;
#else
    Ints found = a >= b;
    int32_t some = 0;
    for (int64_t lane = 0; lane < LANES; lane++) some |= found[lane];
    return some != 0;
#endif
}

// Runs work(thread, first, last) on parts of [0, count): the same parts for the same number of threads.
template <typename Work> void split(int64_t count, int64_t threads, Work work) {
    threads = std::max<int64_t>(1, std::min(threads, count));
    std::vector<std::exception_ptr> wrong(threads);
    auto part = [&](int64_t t) {
        try {
            work(t, count * t / threads, count * (t + 1) / threads);
        } catch (...) {
            wrong[t] = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    others.reserve(threads);
    int64_t started = 1;
    try {
        for (; started < threads; started++) others.emplace_back(part, started);
    } catch (const std::system_error&) {  // no more threads to be had: this one does the other parts
    }
    part(0);
    for (int64_t t = started; t < threads; t++) part(t);
    for (auto& other : others) other.join();
    for (auto& each : wrong)
        if (each) std::rethrow_exception(each);
}

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

// Inputs (B, M) as tiles of 16: tile t holds M vectors, whose lanes are inputs 16 t, 16 t + 1, ...; missing ones are 0.
struct Tiles {
    int64_t count, M;
    std::vector<Floats> x, highest, lowest;
    std::vector<float> magnitude;  // the largest of each tile

    Tiles(const float* rows, int64_t B, int64_t M, int64_t threads) : count((B + LANES - 1) / LANES), M(M) {
        x.resize(count * M);
        highest.resize(count);
        lowest.resize(count);
        magnitude.resize(count);
        split(count, threads, [&](int64_t, int64_t first, int64_t last) {
            for (int64_t t = first; t < last; t++) {
                Floats* tile = &x[t * M];
                for (int64_t lane = 0; lane < std::min(LANES, B - t * LANES); lane++)
                    for (int64_t i = 0; i < M; i++) tile[i][lane] = rows[(t * LANES + lane) * M + i];
                Floats high{}, low{};
                for (int64_t i = 0; i < M; i++) {
                    high = larger(high, tile[i]);
                    low = smaller(low, tile[i]);
                }
                highest[t] = high;
                lowest[t] = low;
                const float* first_row = rows + t * LANES * M;
                magnitude[t] = largest_magnitude(first_row, std::min(LANES, B - t * LANES) * M);
            }
        });
    }

    float peak() const { return largest_magnitude(magnitude.data(), count); }
};

// A class's weights of one sign, about largest first (by 64 buckets), with the largest that is left at every STEP-th place.
struct Sweep {
    int64_t count = 0;
    std::vector<float> weight, bound;
    std::vector<int32_t> index;
    std::vector<uint8_t> bucket;

    explicit Sweep(int64_t M) : weight(M), bound(M / STEP + 1), index(M), bucket(M), picked(M) {}

    void order(const float* w, const uint8_t* mask, int64_t M, float sign, float most) {
        count = 0;
        if (most <= 0) return;
        float scale = (BUCKETS - 1) / most;
        if (!std::isfinite(scale)) scale = 0;
        int64_t places[BUCKETS] = {};
        for (int64_t i = 0; i < M; i++) {
            float magnitude = sign * w[i];
            bool wanted = magnitude > 0 && (!mask || mask[i]);
            int which = BUCKETS - 1 - static_cast<int>(std::max(magnitude, 0.0f) * scale);
            picked[count] = static_cast<int32_t>(i);
            bucket[count] = static_cast<uint8_t>(which);
            places[which] += wanted;
            count += wanted;
        }
        int64_t sum = 0;
        for (auto& place : places) {
            int64_t size = place;
            place = sum;
            sum += size;
        }
        for (int64_t j = 0; j < count; j++) {
            int64_t place = places[bucket[j]]++;
            index[place] = picked[j];
            weight[place] = w[picked[j]];
        }
        float left = 0;
        for (int64_t j = count - 1; j >= 0; j--) {
            left = std::max(left, sign * weight[j]);
            if (j % STEP == 0) bound[j / STEP] = sign * left;
        }
    }

private:
    std::vector<int32_t> picked;
};

struct Problem {
    const float *x, *w;
    const uint8_t* mask;  // (O, M), 0 where a connection is pruned and may not be routed; or null
    int64_t B, O, M, K, threads;
    bool exactly;
};

// The weights of one class: of both signs, and for `exactly`, where they can be routed, those that are 0.
struct Class {
    Sweep positive, negative;
    std::vector<int32_t> zeros;

    explicit Class(int64_t M) : positive(M), negative(M) {}

    void order(const Problem& problem, int64_t c, bool both) {
        const float* w = problem.w + c * problem.M;
        const uint8_t* mask = problem.mask ? problem.mask + c * problem.M : nullptr;
        const float most = largest_magnitude(w, problem.M);
        positive.order(w, mask, problem.M, 1, most);
        negative.count = 0;
        if (both) negative.order(w, mask, problem.M, -1, most);
        zeros.clear();
        if (!problem.exactly) return;
        for (int64_t i = 0; i < problem.M; i++)
            if (w[i] == 0 && (!mask || mask[i])) zeros.push_back(static_cast<int32_t>(i));
    }

    int64_t count() const { return positive.count + negative.count + static_cast<int64_t>(zeros.size()); }
};

// Shows look(product, weight, index, place) the products that can be at least guard(), which may rise, for one tile.
template <bool exactly, typename Guard, typename Look>
inline void sweep(const Sweep& list, const Floats* tile, Floats peak, int64_t start, Guard guard, Look look) {
    // The largest product left is the bound times the peak where that is positive; below 0 there is no such bound.
    Floats reach = list.count && list.weight[0] < 0 ? smaller(peak, Floats{}) : larger(peak, Floats{});
    for (int64_t j = 0; j < list.count; j++) {
        if (j % STEP == 0) {
            Floats most = reach * list.bound[j / STEP], least = guard();
            if (exactly) most = least > 0.0f ? most : least;
            if (!any_at_least(most, least)) return;
        }
        look(tile[list.index[j]] * list.weight[j], list.weight[j], list.index[j], start + j);
    }
}

template <bool exactly, typename Guard, typename Look>
inline void visit(const Class& its, const Tiles& tiles, int64_t t, Guard guard, Look look) {
    const Floats* tile = &tiles.x[t * tiles.M];
    sweep<exactly>(its.positive, tile, tiles.highest[t], 0, guard, look);
    sweep<exactly>(its.negative, tile, tiles.lowest[t], its.positive.count, guard, look);
    if (!exactly || !any_at_least(Floats{}, guard())) return;
    int64_t place = its.positive.count + its.negative.count;
    for (int32_t i : its.zeros) look(tile[i] * 0.0f, 0.0f, i, place++);
}

struct Found {
    Floats sum, tau;
    Ints last;
};

// Among products equal to tau the lowest indices are routed: the last of `wanted` such.
int32_t last_index(const Problem& problem, int64_t c, const Floats* tile, int64_t lane, float tau, int64_t wanted) {
    const float* w = problem.w + c * problem.M;
    const uint8_t* mask = problem.mask ? problem.mask + c * problem.M : nullptr;
    for (int64_t i = 0; i < problem.M; i++)
        if ((!mask || mask[i]) && tile[i][lane] * w[i] == tau && --wanted == 0) return static_cast<int32_t>(i);
    return -1;
}

// K up to INSERTED: the K largest products of each lane stay sorted. K_ is K, or 0 where it is known at run time only.
template <int K_, bool exactly>
Found insert(const Problem& problem, const Class& its, const Tiles& tiles, int64_t c, int64_t t) {
    const int64_t K = K_ ? K_ : problem.K;
    Floats top[K_ ? K_ : INSERTED];
    for (int64_t k = 0; k < K; k++) top[k] = every(exactly ? LOWEST : 0);
    Floats guard = every(exactly ? LOWEST : TINY), lost = every(exactly ? LOWEST : 0);
    visit<exactly>(its, tiles, t, [&] { return guard; }, [&](Floats product, float, int32_t, int64_t) {
        if (!any_at_least(product, guard)) return;
        for (int64_t k = 0; k < K; k++) {
            Floats kept = larger(product, top[k]);
            product = smaller(product, top[k]);
            top[k] = kept;
        }
        lost = larger(lost, product);
        guard = exactly ? top[K - 1] : larger(top[K - 1], every(TINY));
    });
    Found found{Floats{}, top[K - 1], Ints{} + static_cast<int32_t>(problem.M)};
    for (int64_t k = 0; k < K; k++) found.sum += exactly ? (top[k] > LOWEST ? top[k] : Floats{}) : top[k];
    if (!exactly) found.last = found.tau > 0.0f ? found.last : Ints{} - 1;
    if (any_at_least(lost, guard))
        for (int64_t lane = 0; lane < LANES; lane++) {
            float tau = found.tau[lane];
            if (lost[lane] != tau || !(exactly ? tau > LOWEST : tau > 0)) continue;
            int64_t wanted = 0;
            for (int64_t k = 0; k < K; k++) wanted += top[k][lane] == tau;
            found.last[lane] = last_index(problem, c, &tiles.x[t * tiles.M], lane, tau, wanted);
        }
    return found;
}

// Any K: each lane's products above a trial value are counted until K are, by the counts at hand and by halving in turn.
template <bool exactly>
Found count(const Problem& problem, const Class& its, const Tiles& tiles, int64_t c, int64_t t, std::vector<Floats>& products) {
    const int64_t K = problem.K;
    products.clear();
    Floats high = every(exactly ? LOWEST : 0), low = every(exactly ? -LOWEST : 0);
    Floats guard = every(exactly ? LOWEST : TINY);
    visit<exactly>(its, tiles, t, [&] { return guard; }, [&](Floats product, float, int32_t, int64_t) {
        products.push_back(product);
        high = larger(high, product);
        low = smaller(low, product);
    });
    auto above = [&](Floats trial) {
        Ints number{};
        for (Floats product : products) number -= product > trial;
        return number;
    };
    // More than K are above `low`, fewer than K above `high`, and exactly K above `trial` where a lane is done.
    low = exactly ? low - (low > 0.0f ? low : -low) * 0.5f - TINY : Floats{};
    Ints above_low = above(low), above_high{}, wanted = Ints{} + static_cast<int32_t>(K);
    Floats trial = low;
    Ints done = above_low <= wanted, tied{};
    for (int round = 0;; round++) {
        Floats half = low * 0.5f + high * 0.5f;
        Ints stuck = (half <= low) | (half >= high);
        tied |= ~done & stuck;
        if (!any_at_least(Floats{}, (done | tied) ? every(1) : Floats{})) break;
        Floats share = __builtin_convertvector(above_low - wanted, Floats) / __builtin_convertvector(above_low - above_high, Floats);
        share = smaller(larger(share, every(0.05f)), every(0.95f));
        Floats guess = round % 3 == 2 ? half : low + (high - low) * share;
        guess = (guess > low) & (guess < high) ? guess : half;
        Floats next = (done | tied) ? trial : guess;
        Ints number = above(next);
        Ints exact = number == wanted, open = ~(done | tied);
        trial = open & exact ? next : trial;
        Ints more = open & (number > wanted), fewer = open & (number < wanted);
        low = more ? next : low;
        above_low = more ? number : above_low;
        high = fewer ? next : high;
        above_high = fewer ? number : above_high;
        done |= exact;
    }
    Found found{Floats{}, every(exactly ? LOWEST : 0), Ints{} - 1};
    Floats line = tied ? high : trial;  // what is above this is routed; of a tied lane's, also some of what equals `high`
    Floats least = every(-LOWEST);
    for (Floats product : products) {
        Ints in = product > line;
        found.sum += in ? product : Floats{};
        least = in & (product < least) ? product : least;
    }
    Ints all = above(exactly ? every(LOWEST) : Floats{}) <= wanted;  // every one that may be routed is
    found.tau = tied ? high : (all ? found.tau : least);
    found.last = all & ~tied ? (Ints{} + static_cast<int32_t>(exactly ? problem.M : -1)) : Ints{} + static_cast<int32_t>(problem.M);
    for (int64_t lane = 0; lane < LANES; lane++) {
        if (!tied[lane]) continue;
        int64_t wants = K - above_high[lane];
        found.sum[lane] += static_cast<float>(wants) * high[lane];
        found.last[lane] = last_index(problem, c, &tiles.x[t * tiles.M], lane, high[lane], wants);
    }
    return found;
}

template <bool exactly>
Found route(const Problem& problem, const Class& its, const Tiles& tiles, int64_t c, int64_t t, std::vector<Floats>& products) {
    switch (problem.K) {
        case 1: return insert<1, exactly>(problem, its, tiles, c, t);
        case 5: return insert<5, exactly>(problem, its, tiles, c, t);
        case 10: return insert<10, exactly>(problem, its, tiles, c, t);
        case 25: return insert<25, exactly>(problem, its, tiles, c, t);
        default: break;
    }
    if (problem.K <= INSERTED) return insert<0, exactly>(problem, its, tiles, c, t);
    return count<exactly>(problem, its, tiles, c, t, products);
}

int64_t threads_for(const Problem& problem) { return problem.B * problem.O * problem.M < SMALL ? 1 : problem.threads; }

bool some_negative(const Tiles& tiles) {
    return std::any_of(tiles.lowest.begin(), tiles.lowest.end(), [](Floats low) { return any_at_least(-low, every(TINY)); });
}

// Whether every sum of K products of this class stays finite, as those of anything but finite numbers do not.
bool stays_finite(const Problem& problem, int64_t c, double peak) {
    double most = largest_magnitude(problem.w + c * problem.M, problem.M);
    return most * peak * static_cast<double>(problem.K) <= static_cast<double>(std::numeric_limits<float>::max());
}

template <typename Value> void store(Value* to, const void* lanes, int64_t count) { std::memcpy(to, lanes, count * sizeof(Value)); }

template <bool exactly> int forward(const Problem& problem, float* y_OB, float* tau_OB, int32_t* last_OB) {
    const int64_t threads = threads_for(problem);
    Tiles tiles(problem.x, problem.B, problem.M, threads);
    const bool both = exactly || some_negative(tiles);
    const double peak = tiles.peak();
    if (!std::isfinite(peak)) return NOT_FINITE;
    std::atomic<bool> finite{true};
    split(problem.O, threads, [&](int64_t, int64_t first, int64_t last) {
        Class its(problem.M);
        std::vector<Floats> products;
        for (int64_t c = first; c < last; c++) {
            if (!stays_finite(problem, c, peak)) finite = false;
            if (!finite) return;
            its.order(problem, c, both);
            for (int64_t t = 0; t < tiles.count; t++) {
                Found found = route<exactly>(problem, its, tiles, c, t, products);
                const int64_t at = c * problem.B + t * LANES, lanes = std::min(LANES, problem.B - t * LANES);
                store(y_OB + at, &found.sum, lanes);
                store(tau_OB + at, &found.tau, lanes);
                store(last_OB + at, &found.last, lanes);
            }
        }
    });
    return finite ? DONE : NOT_FINITE;
}

template <bool exactly>
void backward(const Problem& problem, const float* gy_OB, const float* tau_OB, const int32_t* last_OB, float* gx, float* gw) {
    const int64_t threads = std::min(threads_for(problem), problem.O), M = problem.M;
    Tiles tiles(problem.x, problem.B, M, threads);
    const bool both = exactly || some_negative(tiles);
    // One sum of the inputs' gradients a thread, so that no two write the same place.
    std::vector<std::vector<Floats>> parts(gx ? threads : 0);
    split(problem.O, threads, [&](int64_t thread, int64_t first, int64_t last) {
        Class its(M);
        std::vector<Floats> of_weight(M);
        Floats* of_x = nullptr;
        if (gx) {
            parts[thread].assign(tiles.count * M, Floats{});
            of_x = parts[thread].data();
        }
        for (int64_t c = first; c < last; c++) {
            its.order(problem, c, both);
            int64_t seen = 0;
            for (int64_t t = 0; t < tiles.count; t++) {
                const int64_t at = c * problem.B + t * LANES, lanes = std::min(LANES, problem.B - t * LANES);
                Floats gy{}, tau = every(-LOWEST);  // lanes without an input route nothing
                Ints final{};
                std::memcpy(&gy, gy_OB + at, lanes * sizeof(float));
                std::memcpy(&tau, tau_OB + at, lanes * sizeof(float));
                std::memcpy(&final, last_OB + at, lanes * sizeof(int32_t));
                Floats guard = exactly ? tau : larger(tau, every(TINY));
                const Floats* tile = &tiles.x[t * M];
                visit<exactly>(its, tiles, t, [&] { return guard; }, [&](Floats product, float weight, int32_t i, int64_t j) {
                    if (!any_at_least(product, guard)) return;
                    for (; seen <= j; seen++) of_weight[seen] = Floats{};
                    Ints routed = (product > tau) | ((product == tau) & (final >= i));
                    Floats its_gy = routed ? gy : Floats{};
                    of_weight[j] += its_gy * tile[i];
                    if (of_x) of_x[t * M + i] += its_gy * weight;
                });
            }
            if (!gw) continue;
            float* row = gw + c * M;
            std::memset(row, 0, M * sizeof(float));
            for (int64_t j = 0; j < seen; j++) {
                float sum = 0;
                for (int64_t lane = 0; lane < LANES; lane++) sum += of_weight[j][lane];
                const int64_t P = its.positive.count, N = P + its.negative.count;
                row[j < P ? its.positive.index[j] : j < N ? its.negative.index[j - P] : its.zeros[j - N]] = sum;
            }
        }
    });
    if (!gx) return;
    split(tiles.count, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t t = first; t < last; t++)
            for (int64_t i = 0; i < M; i++) {
                Floats sum{};
                for (const auto& part : parts) sum += part[t * M + i];
                for (int64_t lane = 0; lane < std::min(LANES, problem.B - t * LANES); lane++)
                    gx[(t * LANES + lane) * M + i] = sum[lane];
            }
    });
}

}  // namespace

// All arrays are dense: x (B, M), w (O, M), mask (O, M) or null, y, tau, last and gy (O, B), gx (B, M), gw (O, M) or null.
extern "C" {

int dynamick_forward(const float* x, const float* w, const uint8_t* mask, int64_t B, int64_t O, int64_t M, int64_t K, int exactly,
                     int64_t threads, float* y, float* tau, int32_t* last) {
    try {
        Problem problem{x, w, mask, B, O, M, std::min(K, M), threads, exactly != 0};
        return exactly ? forward<true>(problem, y, tau, last) : forward<false>(problem, y, tau, last);
    } catch (...) {
        return OUT_OF_MEMORY;
    }
}

int dynamick_backward(const float* x, const float* w, const uint8_t* mask, int64_t B, int64_t O, int64_t M, int exactly, int64_t threads,
                      const float* gy, const float* tau, const int32_t* last, float* gx, float* gw) {
    try {
        Problem problem{x, w, mask, B, O, M, 0, threads, exactly != 0};
        exactly ? backward<true>(problem, gy, tau, last, gx, gw) : backward<false>(problem, gy, tau, last, gx, gw);
        return DONE;
    } catch (...) {
        return OUT_OF_MEMORY;
    }
}

}  // extern "C"
