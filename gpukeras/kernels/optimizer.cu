// The update rules of all optimizers: one pass over flat arrays, in place. Letters and formulas as in optimizer.py.
//
// Settings are numbers; learning rate and step count are read from device memory, so that a captured step follows them.
// rest = 1 - beta is handed over, taken in double.

#include "common.cuh"

// What follows from the step count alone is computed by one thread of a block, for the others to read. Every call has
// a lambda of its own type, and therefore a place of its own: nobody waits until it has been read.
template <class Function>
DEVICE wide once(Function function) {
  __shared__ wide result[1];
  if (threadIdx.x == 0) result[0] = function();
  __syncthreads();
  return result[0];
}

// param <- param - learning_rate grad
KERNEL sgd(index n, const real* grad, const wide* learning_rate, real* param) {
  wide rate = *learning_rate;
  elementwise(n, [&](wide g, wide& p) { p -= rate * g; }, reads(grad), updates(param));
}

// velocity <- momentum velocity - learning_rate grad;  param <- param + velocity, or Nesterov's look ahead
KERNEL sgd_momentum(index n, const real* grad, const wide* learning_rate, wide momentum, bool nesterov, real* velocity,
                    real* param) {
  wide rate = *learning_rate;
  elementwise(n, [&](wide g, wide& v, wide& p) {
    v = momentum * v - rate * g;
    p += nesterov ? momentum * v - rate * g : v;
  }, reads(grad), updates(velocity), updates(param));
}

// accumulator <- accumulator + grad^2;  param <- param - learning_rate grad / sqrt(accumulator + epsilon)
KERNEL adagrad(index n, const real* grad, const wide* learning_rate, wide epsilon, real* accumulator, real* param) {
  wide rate = *learning_rate;
  elementwise(n, [&](wide g, wide& a, wide& p) {
    a += g * g;
    p -= rate * g / square_root(a + epsilon);
  }, reads(grad), updates(accumulator), updates(param));
}

// velocity <- rho velocity + (1 - rho) grad^2;  average <- rho average + (1 - rho) grad, where it is there
// step = learning_rate grad / sqrt(velocity - average^2 + epsilon)
// momenta <- momentum momenta + step, where they are there;  param <- param - momenta (or step)
KERNEL rmsprop(index n, const real* grad, const wide* learning_rate, wide rho, wide rest, wide momentum, wide epsilon,
               real* velocity, real* average, real* momenta, real* param) {
  wide rate = *learning_rate;
  elementwise(n, [&](wide g, wide& v, wide& a, wide& m, wide& p) {
    v = rho * v + rest * (g * g);
    a = rho * a + rest * g;
    wide denominator = average ? v - a * a : v;
    m = momentum * m + rate * g / square_root(denominator + epsilon);  // momenta that are not there are read as 0
    p -= m;
  }, reads(grad), updates(velocity), updates(average), updates(momenta), updates(param));
}

// momenta  <- momenta + (1 - beta_1) (grad - momenta)
// velocity <- velocity + (1 - beta_2) (grad^2 - velocity);  velocity_hat <- max(velocity_hat, velocity) in amsgrad
// alpha    =  learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t),  t = step + 1
// param    <- param - alpha momenta / (sqrt(velocity or velocity_hat) + epsilon)
KERNEL adam(index n, const real* grad, const wide* learning_rate, const int* step, wide beta_1, wide rest_1, wide beta_2,
            wide rest_2, wide epsilon, real* momenta, real* velocity, real* velocity_hat, real* param) {
  wide alpha = once([&] {
    int t = *step + 1;
    return *learning_rate * square_root(1 - whole_power(beta_2, t)) / (1 - whole_power(beta_1, t));
  });
  elementwise(n, [&](wide g, wide& m, wide& v, wide& hat, wide& p) {
    m += rest_1 * (g - m);
    v += rest_2 * (g * g - v);
    hat = velocity_hat ? maximum(hat, v) : v;
    p -= alpha * m / (square_root(hat) + epsilon);
  }, reads(grad), updates(momenta), updates(velocity), updates(velocity_hat), updates(param));
}

// momenta <- momenta + (1 - beta_1) (grad - momenta);  norm <- max(beta_2 norm, |grad|)
// param   <- param - learning_rate / (1 - beta_1^t) momenta / (norm + epsilon),  t = step + 1
KERNEL adamax(index n, const real* grad, const wide* learning_rate, const int* step, wide beta_1, wide rest_1,
              wide beta_2, wide epsilon, real* momenta, real* norm, real* param) {
  wide correction = once([&] { return 1 - whole_power(beta_1, *step + 1); }), rate = *learning_rate;
  elementwise(n, [&](wide g, wide& m, wide& u, wide& p) {
    m += rest_1 * (g - m);
    u = maximum(beta_2 * u, absolute(g));
    p -= rate * m / (correction * (u + epsilon));
  }, reads(grad), updates(momenta), updates(norm), updates(param));
}

// u_t  = beta_1 (1 - 0.96^t / 2),  t = step + 1, and `product` is u_1 ... u_t
// momenta, velocity as in adam
// look = u_(t+1) / (1 - product u_(t+1)) momenta + (1 - u_t) / (1 - product) grad
// param <- param - learning_rate look / (sqrt(velocity / (1 - beta_2^t)) + epsilon)
KERNEL nadam(index n, const real* grad, const wide* learning_rate, const int* step, const wide* product, wide beta_1,
             wide rest_1, wide beta_2, wide rest_2, wide epsilon, real* momenta, real* velocity, real* param) {
  wide decayed = once([&] { return whole_power(wide(0.96), *step + 1); });
  wide correction = once([&] { return 1 - whole_power(beta_2, *step + 1); });
  wide u = beta_1 * (1 - wide(0.5) * decayed), next = beta_1 * (1 - wide(0.5) * wide(0.96) * decayed);
  wide of_momenta = next / (1 - *product * next), of_grad = (1 - u) / (1 - *product), rate = *learning_rate;
  elementwise(n, [&](wide g, wide& m, wide& v, wide& p) {
    m += rest_1 * (g - m);
    v += rest_2 * (g * g - v);
    p -= rate * (of_momenta * m + of_grad * g) / (square_root(v / correction) + epsilon);
  }, reads(grad), updates(momenta), updates(velocity), updates(param));
}

// grad_squares  <- rho grad_squares + (1 - rho) grad^2
// delta         =  sqrt(delta_squares + epsilon) / sqrt(grad_squares + epsilon) grad
// delta_squares <- rho delta_squares + (1 - rho) delta^2;  param <- param - learning_rate delta
KERNEL adadelta(index n, const real* grad, const wide* learning_rate, wide rho, wide rest, wide epsilon,
                real* grad_squares, real* delta_squares, real* param) {
  wide rate = *learning_rate;
  elementwise(n, [&](wide g, wide& squares, wide& d, wide& p) {
    squares = rho * squares + rest * (g * g);
    wide delta = square_root(d + epsilon) * g / square_root(squares + epsilon);
    d = rho * d + rest * (delta * delta);
    p -= rate * delta;
  }, reads(grad), updates(grad_squares), updates(delta_squares), updates(param));
}

// linear <- linear + grad + 2 l2_shrinkage param - ((accumulator + grad^2)^-power - accumulator^-power) / rate param
// param  <- (clip(linear, -l1, l1) - linear) / ((accumulator + grad^2)^-power / rate + 2 l2 + beta / rate)
KERNEL ftrl(index n, const real* grad, const wide* learning_rate, wide power_, wide l1, wide l2, wide l2_shrinkage,
            wide beta, real* accumulator, real* linear, real* param) {
  wide rate = *learning_rate;
  elementwise(n, [&](wide g, wide& a, wide& l, wide& p) {
    wide before = power(a, -power_);
    a += g * g;
    wide after = power(a, -power_);
    l += g + p * (2 * l2_shrinkage) - (after - before) / rate * p;
    wide quadratic = after / rate + 2 * (l2 + beta / (2 * rate));
    p = (minimum(maximum(l, -l1), l1) - l) / quadratic;
  }, reads(grad), updates(accumulator), updates(linear), updates(param));
}

// param <- param - learning_rate sign(beta_1 momenta + (1 - beta_1) grad)
// momenta <- beta_2 momenta + (1 - beta_2) grad
KERNEL lion(index n, const real* grad, const wide* learning_rate, wide beta_1, wide rest_1, wide beta_2, wide rest_2,
            real* momenta, real* param) {
  wide rate = *learning_rate;
  elementwise(n, [&](wide g, wide& m, wide& p) {
    wide direction = beta_1 * m + rest_1 * g;
    // NaN stays NaN: a user shall see it.
    p -= direction != direction ? direction : rate * wide((direction > 0) - (direction < 0));
    m = beta_2 * m + rest_2 * g;
  }, reads(grad), updates(momenta), updates(param));
}

// momenta, velocity as in adam;  update <- momenta / (1 - beta_1^t) / (sqrt(velocity / (1 - beta_2^t)) + epsilon)
// part[0, block] <- sum of param^2,  part[1, block] <- sum of update^2
KERNEL lamb_update(index n, const real* param, const real* grad, const int* step, wide beta_1, wide rest_1, wide beta_2,
                   wide rest_2, wide epsilon, real* momenta, real* velocity, real* update, wide* part) {
  wide correction_1 = once([&] { return 1 - whole_power(beta_1, *step + 1); });
  wide correction_2 = once([&] { return 1 - whole_power(beta_2, *step + 1); });
  wide param_sum = 0, update_sum = 0;
  elementwise(n, [&](wide p, wide g, wide& m, wide& v, wide& u) {
    m += rest_1 * (g - m);
    v += rest_2 * (g * g - v);
    u = m / correction_1 / (square_root(v / correction_2) + epsilon);
    param_sum += p * p;
    update_sum += u * u;
  }, reads(param), reads(grad), updates(momenta), updates(velocity), writes(update));
  param_sum = over_row<Sum>(param_sum);
  update_sum = over_row<Sum>(update_sum);
  if (threadIdx.x == 0) {
    part[blockIdx.x] = param_sum;
    part[gridDim.x + blockIdx.x] = update_sum;
  }
}

// param <- param - learning_rate |param| / |update| update, the ratio 1 where a norm is 0;  squares of both norms
KERNEL lamb_step(index n, const real* update, const wide* squares, const wide* learning_rate, real* param) {
  wide ratio = squares[0] > 0 && squares[1] > 0 ? square_root(squares[0]) / square_root(squares[1]) : wide(1);
  wide rate = *learning_rate * ratio;
  elementwise(n, [&](wide u, wide& p) { p -= rate * u; }, reads(update), updates(param));
}
