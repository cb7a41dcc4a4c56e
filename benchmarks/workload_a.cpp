// Workload A by hand: bootstrap filter of a stochastic-volatility model, float32, one thread.
//
//   x_1 ~ N(mu, sigma^2/(1-phi^2)),  x_t ~ N(mu + phi (x_{t-1} - mu), sigma^2),  y_t ~ N(0, exp(x_t))
//
// What a careful C++ programmer would write: everything in blocks that stay in cache, 16 xoshiro128+
// streams side by side, Box-Muller, vector exp and log from libmvec, block sums in double, systematic
// resampling by one merge.  Plain loops that the compiler vectorises for the machine at hand.
//
//   g++ -O3 -march=native -ffast-math -std=c++17 workload_a.cpp -o workload_a -lmvec -lm
//   ./workload_a y.f32 N T threshold runs      prints one JSON line: wall and CPU seconds, log likelihoods
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

constexpr int LANES = 16, BLOCK = 1024;
constexpr float MU = -1.0f, PHI = 0.97f, SIGMA = 0.2f;

struct Streams {
  alignas(64) uint32_t s[4][LANES];
  explicit Streams(uint64_t seed) {
    for (auto &word : s)
      for (auto &lane : word) {  // splitmix64
        uint64_t z = (seed += 0x9e3779b97f4a7c15ULL);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        lane = uint32_t(z ^ (z >> 31));
      }
  }
  void next(uint32_t *out) {  // xoshiro128+ in every lane
    for (int i = 0; i < LANES; i++) {
      out[i] = s[0][i] + s[3][i];
      uint32_t t = s[1][i] << 9;
      s[2][i] ^= s[0][i];
      s[3][i] ^= s[1][i];
      s[1][i] ^= s[2][i];
      s[0][i] ^= s[3][i];
      s[2][i] ^= t;
      s[3][i] = (s[3][i] << 11) | (s[3][i] >> 21);
    }
  }
};

// BLOCK standard normals.
static void normals(Streams &rng, float *z) {
  alignas(64) uint32_t a[BLOCK / 2], b[BLOCK / 2];
  for (int i = 0; i < BLOCK / 2; i += LANES) { rng.next(a + i); rng.next(b + i); }
  for (int i = 0; i < BLOCK / 2; i++) {
    float u = float(int32_t(a[i] >> 8)) * 0x1p-24f + 0x1p-25f;
    float radius = std::sqrt(-2.0f * logf(u));
    float f = float(int32_t(b[i] << 2) >> 8) * float(M_PI / 2 / 16777216.0);  // a quarter turn
    float g = f * f;
    float sine = ((-1.9515295891e-4f * g + 8.3321608736e-3f) * g - 1.6666654611e-1f) * g * f + f;
    float cosine = ((2.443315712e-5f * g - 1.388731625e-3f) * g + 4.166664568e-2f) * g * g - 0.5f * g + 1.0f;
    bool swap = b[i] & 0x40000000u;
    float sign = b[i] & 0x80000000u ? -radius : radius;
    z[i] = sign * (swap ? sine : cosine);
    z[i + BLOCK / 2] = sign * (swap ? -cosine : sine);
  }
}

struct Filter {
  long n, blocks;
  std::vector<float> x, parents, log_weight, weight;
  std::vector<double> sum, sum_sq, shift;
  Filter(long n)
      : n(n), blocks((n + BLOCK - 1) / BLOCK), x(blocks * BLOCK), parents(blocks * BLOCK),
        log_weight(blocks * BLOCK), weight(blocks * BLOCK), sum(blocks), sum_sq(blocks), shift(blocks) {}

  // Move and weigh one block; its weights are relative to its own largest.
  void advance(long b, Streams &rng, bool first, bool carried, const float *from, float half_y2) {
    alignas(64) float z[BLOCK];
    normals(rng, z);
    float *__restrict to = &x[b * BLOCK], *__restrict lw = &log_weight[b * BLOCK], *__restrict w = &weight[b * BLOCK];
    const float *__restrict parent = from + b * BLOCK;
    const float start = SIGMA / std::sqrt(1 - PHI * PHI);
    if (first)
      for (int i = 0; i < BLOCK; i++) to[i] = MU + start * z[i];
    else
      for (int i = 0; i < BLOCK; i++) to[i] = MU + PHI * (parent[i] - MU) + SIGMA * z[i];
    if (carried)
      for (int i = 0; i < BLOCK; i++) lw[i] -= 0.5f * to[i] + half_y2 * expf(-to[i]);
    else
      for (int i = 0; i < BLOCK; i++) lw[i] = -(0.5f * to[i] + half_y2 * expf(-to[i]));
    const long used = std::min<long>(BLOCK, n - b * BLOCK);
    for (long i = used; i < BLOCK; i++) lw[i] = -1e30f;
    float largest = lw[0], total = 0, squares = 0;
    for (int i = 0; i < BLOCK; i++) largest = std::max(largest, lw[i]);
    for (int i = 0; i < BLOCK; i++) {
      w[i] = expf(lw[i] - largest);
      total += w[i];
      squares += w[i] * w[i];
    }
    sum[b] = total, sum_sq[b] = squares, shift[b] = largest;
  }

  void resample(double total, double u) {
    double cumulative = 0;
    long k = 0;
    for (long b = 0; b < blocks; b++) {
      // whole part and fraction apart: float32 suffices inside a block
      const double before = cumulative * n / total - u, whole = std::floor(before);
      const float scale = float(shift[b] * n / total);
      float position = float(before - whole);
      const long base = long(whole), used = std::min<long>(BLOCK, n - b * BLOCK);
      for (long i = 0; i < used; i++) {
        position += weight[b * BLOCK + i] * scale;
        const long end = std::min(n, base + long(std::ceil(position)));
        const float value = x[b * BLOCK + i];
        while (k < end) parents[k++] = value;
      }
      cumulative += sum[b] * shift[b];
    }
    while (k < n) parents[k++] = x[n - 1];
  }

  double run(const float *y, int steps, double threshold, uint64_t seed) {
    Streams rng(seed);
    double log_likelihood = 0, log_before = std::log(double(n));
    bool resampled = false;
    for (int t = 0; t < steps; t++) {
      const float *from = resampled ? parents.data() : x.data();
      for (long b = 0; b < blocks; b++) advance(b, rng, t == 0, t > 0 && !resampled, from, 0.5f * y[t] * y[t]);
      double largest = shift[0], total = 0, squares = 0;
      for (long b = 0; b < blocks; b++) largest = std::max(largest, shift[b]);
      for (long b = 0; b < blocks; b++) {
        shift[b] = std::exp(shift[b] - largest);
        total += sum[b] * shift[b];
        squares += sum_sq[b] * shift[b] * shift[b];
      }
      const double log_total = largest + std::log(total);
      log_likelihood += log_total - log_before - 0.91893853320467274;
      resampled = threshold >= 1 || total * total < threshold * n * squares;
      log_before = resampled ? std::log(double(n)) : log_total;
      if (resampled) {
        uint32_t word[LANES];
        rng.next(word);
        resample(total, (word[0] >> 8) * 0x1p-24);
      }
    }
    return log_likelihood;
  }
};

int main(int argc, char **argv) {
  if (argc != 6) return std::fprintf(stderr, "usage: %s y.f32 N T threshold runs\n", argv[0]), 2;
  const long n = std::atol(argv[2]);
  const int steps = std::atoi(argv[3]), runs = std::atoi(argv[5]);
  std::vector<float> y(steps);
  FILE *file = std::fopen(argv[1], "rb");
  if (!file || std::fread(y.data(), 4, steps, file) != size_t(steps)) return std::perror(argv[1]), 1;
  std::fclose(file);
  Filter filter(n);
  std::vector<double> seconds, cpu, log_likelihood;
  for (int run = 0; run <= runs; run++) {  // the first warms up
    const auto begin = std::chrono::steady_clock::now();
    const auto ticks = std::clock();
    const double value = filter.run(y.data(), steps, std::atof(argv[4]), run);
    if (run == 0) continue;
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    cpu.push_back(double(std::clock() - ticks) / CLOCKS_PER_SEC);
    log_likelihood.push_back(value);
  }
  for (auto [name, values] : {std::pair{"{\"seconds\": [", &seconds}, std::pair{"], \"cpu_seconds\": [", &cpu},
                              std::pair{"], \"log_likelihood\": [", &log_likelihood}}) {
    std::printf("%s", name);
    for (size_t i = 0; i < values->size(); i++) std::printf("%s%.9g", i ? ", " : "", (*values)[i]);
  }
  std::printf("]}\n");
}
