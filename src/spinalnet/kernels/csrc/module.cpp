// The Python door. Shapes and dtypes are checked by the only caller, __init__.py, once per plan; no
// torch header is needed, so one build serves every torch version, and the limited API makes it
// serve every Python version from 3.11 on.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <new>
#include <utility>
#include <vector>

#include "spine.h"
#include "training.h"
#include "warp.h"

namespace spinalnet {

#if defined(SPINAL_X86)
namespace x86_64_v4 { extern const Kernels kernels; }
namespace x86_64_v3 { extern const Kernels kernels; }
#endif
namespace baseline { extern const Kernels kernels; }

namespace {

// The best build this processor can run.
const Kernels* best_kernels() {
#if defined(SPINAL_X86)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512cd");
    if (v4) return &x86_64_v4::kernels;
    if (v3) return &x86_64_v3::kernels;
#endif
    return &baseline::kernels;
}

// Reads arguments one after the other; the first failure sticks (PyErr_Occurred()).
class Arguments {
public:
    Arguments(PyObject* const* items, Py_ssize_t count) : item_(items), end_(items + count) {}

    PyObject* object() {
        if (item_ == end_) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "too few arguments");
            return Py_None;
        }
        return *item_++;
    }
    index number() { return PyLong_AsSsize_t(object()); }
    double real() { return PyFloat_AsDouble(object()); }
    template <class P>
    P* address() {
        return static_cast<P*>(PyLong_AsVoidPtr(object()));
    }
    // None (null), or a list of `count` items.
    PyObject* list(Py_ssize_t count) {
        PyObject* item = object();
        if (item == Py_None) return nullptr;
        if (!PyList_Check(item) || PyList_Size(item) != count) {
            PyErr_Format(PyExc_TypeError, "expected None or a list of %zd items", count);
            return nullptr;
        }
        return item;
    }

private:
    PyObject* const* item_;
    PyObject* const* end_;
};

// A reference that is counted.
class Reference {
public:
    explicit Reference(PyObject* stolen = nullptr) : object_(stolen) {}
    Reference(Reference&& other) noexcept : object_(other.object_) { other.object_ = nullptr; }
    Reference& operator=(Reference&& other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    ~Reference() { Py_XDECREF(object_); }
    static Reference to(PyObject* borrowed) {
        Py_INCREF(borrowed);
        return Reference(borrowed);
    }
    PyObject* get() const { return object_; }

private:
    PyObject* object_;
};

struct Names {
    PyObject* data_ptr = PyUnicode_InternFromString("data_ptr");
    PyObject* stride = PyUnicode_InternFromString("stride");
    PyObject* numel = PyUnicode_InternFromString("numel");
    PyObject* dtype = PyUnicode_InternFromString("dtype");
};
const Names* names = nullptr;

// A parameter as it was when its plan was made. Bound methods are kept because looking them up
// would take as long as calling them.
struct Parameter {
    Reference tensor, data_ptr, stride, strides, numel, dtype;
    const char* address;
    index count = 0;

    explicit Parameter(PyObject* object) {
        tensor = Reference::to(object);
        data_ptr = Reference(PyObject_GetAttr(object, names->data_ptr));
        stride = Reference(PyObject_GetAttr(object, names->stride));
        numel = Reference(PyObject_GetAttr(object, names->numel));
        dtype = Reference(PyObject_GetAttr(object, names->dtype));
        if (!data_ptr.get() || !stride.get() || !numel.get() || !dtype.get()) return;
        strides = Reference(PyObject_CallNoArgs(stride.get()));
        address = current_address();
        count = current_count();
    }
    index current_count() const {
        const Reference result(PyObject_CallNoArgs(numel.get()));
        return result.get() ? PyLong_AsSsize_t(result.get()) : -1;
    }
    const char* current_address() const {
        const Reference result(PyObject_CallNoArgs(data_ptr.get()));
        return result.get() ? static_cast<char*>(PyLong_AsVoidPtr(result.get())) : nullptr;
    }
    // Whether `object` is the same tensor and still lies in memory as it did.
    bool still(PyObject* object) const {
        if (object != tensor.get() || current_address() != address) return false;
        const Reference type(PyObject_GetAttr(object, names->dtype));
        if (type.get() != dtype.get()) return false;
        // `tensor.data = ...` may leave address and strides as they were and take rows away.
        if (current_count() != count) return false;
        const Reference now(PyObject_CallNoArgs(stride.get()));
        return now.get() && PyObject_RichCompareBool(now.get(), strides.get(), Py_EQ) == 1;
    }
};

// Where a matrix or a bias begins: so many elements behind the start of a parameter. Zero unless
// one parameter holds them all.
struct Place {
    index parameter, offset;
};

// Everything about a chain that stays the same from call to call. Python checks the shapes and
// makes one; every call then asks whether the parameters are still where they were.
struct Plan {
    bool is_double;
    double slope;
    index features, width, layers, splits, outputs;
    std::vector<Parameter> parameters;
    std::vector<Place> places;
    // Per layer (places, numbers of elements); then, if there are outputs, those of the output row.
    std::vector<index> weight, bias, stride, columns;
    index out_weight = -1, out_bias = -1, out_stride = 0;

    template <class See>
    int visit(See see) const {
        for (const Parameter& parameter : parameters) {
            for (const Reference* reference :
                 {&parameter.tensor, &parameter.data_ptr, &parameter.stride, &parameter.numel}) {
                if (int stop = see(*reference)) return stop;
            }
        }
        return 0;
    }
    void clear() { parameters.clear(); }

    bool still(PyObject* tensors) const {
        if (parameters.empty() || !PyList_Check(tensors) ||
            PyList_Size(tensors) != static_cast<Py_ssize_t>(parameters.size())) {
            return false;
        }
        for (std::size_t i = 0; i < parameters.size(); ++i) {
            if (!parameters[i].still(PyList_GetItem(tensors, static_cast<Py_ssize_t>(i)))) {
                return false;
            }
        }
        return true;
    }
};

// A Spine filled from a plan, and the arrays that it points to.
template <class T>
struct Call {
    Spine<T> spine{};
    std::vector<Layer<T>> layers;
    std::vector<Norm<T>> norms;
    Regularization<T> regularization{};
    std::vector<BatchNorm<T>> batch_norms;

    const T* at(const Plan& plan, index number) const {
        if (number < 0) return nullptr;
        const Place& place = plan.places[number];
        return reinterpret_cast<const T*>(plan.parameters[place.parameter].address) + place.offset;
    }

    // Arguments: rows, x, stride of x, threads, hidden, logits.
    Call(const Plan& plan, Arguments& in) : layers(plan.layers) {
        Spine<T>& s = spine;
        s.rows = in.number();
        s.x = in.address<const T>();
        s.x_stride = in.number();
        s.threads = static_cast<int>(in.number());
        s.hidden = in.address<T>();
        s.logits = in.address<T>();
        s.features = plan.features;
        s.width = plan.width;
        s.layers = plan.layers;
        s.splits = plan.splits;
        s.outputs = plan.outputs;
        s.slope = static_cast<T>(plan.slope);
        s.layer = layers.data();
        const index shorter = s.features / s.splits, longer = s.features % s.splits;
        for (index l = 0; l < s.layers; ++l) {
            Layer<T>& layer = layers[l];
            const index split = l % s.splits;
            layer.size = shorter + (split < longer);
            layer.offset = split * shorter + (split < longer ? split : longer);
            layer.weight = at(plan, plan.weight[l]);
            layer.stride = plan.stride[l];
            layer.columns = plan.columns[l];
            if (!plan.bias.empty()) layer.bias = at(plan, plan.bias[l]);
        }
        s.out_weight = at(plan, plan.out_weight);
        s.out_stride = plan.out_stride;
        s.out_bias = at(plan, plan.out_bias);
    }

    // Five addresses and numbers per layer: mean, variance, gain, bias (0: none), epsilon.
    void read_norms(Arguments& in) {
        PyObject* const values = in.list(5 * spine.layers);
        if (!values) return;
        norms.resize(spine.layers);
        for (index l = 0; l < spine.layers; ++l) {
            const auto vector = [&](int i) {
                return static_cast<const T*>(PyLong_AsVoidPtr(PyList_GetItem(values, 5 * l + i)));
            };
            norms[l] = {vector(0), vector(1), vector(2), vector(3),
                        PyFloat_AsDouble(PyList_GetItem(values, 5 * l + 4))};
            layers[l].norm = &norms[l];
        }
    }

    // Gradient of the result, its stride, address for the gradient of x (0: not wanted), and a list
    // of addresses for those of the parameters (None: not wanted).
    void read_gradients(const Plan& plan, Arguments& in) {
        Spine<T>& s = spine;
        const T* gradient = in.address<const T>();
        const index stride = in.number();
        (s.outputs ? s.logits_grad : s.hidden_grad) = gradient;
        (s.outputs ? s.logits_grad_stride : s.hidden_grad_stride) = stride;
        s.x_grad = in.address<T>();
        PyObject* const where = in.list(static_cast<Py_ssize_t>(plan.parameters.size()));
        s.wants_weights = where != nullptr;
        if (!s.wants_weights) return;
        std::vector<T*> address;
        for (const Place& place : plan.places) {
            PyObject* const item = PyList_GetItem(where, place.parameter);
            address.push_back(static_cast<T*>(PyLong_AsVoidPtr(item)) + place.offset);
        }
        for (index l = 0; l < s.layers; ++l) {
            layers[l].weight_grad = address[plan.weight[l]];
            if (!plan.bias.empty()) layers[l].bias_grad = address[plan.bias[l]];
            for (index k = 0; k < l; ++k) {
                if (plan.weight[k] == plan.weight[l] ||
                    (!plan.bias.empty() && plan.bias[k] == plan.bias[l])) {
                    layers[k].shared = layers[l].shared = true;
                }
            }
        }
        if (plan.out_weight >= 0) s.out_weight_grad = address[plan.out_weight];
        if (plan.out_bias >= 0) s.out_bias_grad = address[plan.out_bias];
    }

    // Masks of the inputs and of the output row (words or 0, stride, scale), sums and statistics
    // (0: no norms), and a list of ten per layer (None: no norms): gain, bias, running mean and
    // variance, number of batches, gradients of gain and bias (addresses, or 0), momentum, epsilon,
    // whether it is fixed.
    void read_regularization(Arguments& in) {
        for (Mask<T>* mask : {&regularization.inputs, &regularization.outputs}) {
            mask->words = in.address<const std::uint32_t>();
            mask->stride = in.number();
            mask->scale = static_cast<T>(in.real());
        }
        regularization.sums = in.address<T>();
        T* statistics = in.address<T>();
        PyObject* const values = in.list(10 * spine.layers);
        if (!values) return;
        for (index l = 0; l < spine.layers; ++l, statistics += 2 * spine.width) {
            const auto item = [&](int i) { return PyList_GetItem(values, 10 * l + i); };
            const auto vector = [&](int i) { return static_cast<T*>(PyLong_AsVoidPtr(item(i))); };
            batch_norms.push_back({vector(0), vector(1), vector(2), vector(3),
                                   static_cast<std::int64_t*>(PyLong_AsVoidPtr(item(4))),
                                   PyFloat_AsDouble(item(7)), PyFloat_AsDouble(item(8)),
                                   PyObject_IsTrue(item(9)) == 1, statistics,
                                   statistics + spine.width, vector(5), vector(6)});
        }
        regularization.norm = batch_norms.data();
    }

    template <class Kernel>
    PyObject* run(const Kernel& kernel) {
        if (PyErr_Occurred()) return nullptr;
        bool out_of_memory = false;
        Py_BEGIN_ALLOW_THREADS
        try {
            kernel();
        } catch (const std::bad_alloc&) {
            out_of_memory = true;
        }
        Py_END_ALLOW_THREADS
        if (out_of_memory) return PyErr_NoMemory();
        Py_RETURN_TRUE;
    }
};

const Kernels* kernels = best_kernels();

// A Python object around a C++ value that refers to Python objects: `visit(see)` shows them to the
// garbage collector, for a tensor or a module can refer back to the owner of a plan or a watch.
template <class T>
struct Object {
    PyObject_HEAD
    T* value;

    static const T& of(PyObject* self) { return *reinterpret_cast<Object*>(self)->value; }

    static PyObject* make(PyTypeObject* type, T&& value) {
        auto* self = reinterpret_cast<Object*>(PyType_GenericAlloc(type, 0));
        if (self) self->value = new T(std::move(value));
        return reinterpret_cast<PyObject*>(self);
    }
    static int traverse(PyObject* self, visitproc visit, void* arg) {
        Py_VISIT(Py_TYPE(self));
        if (!reinterpret_cast<Object*>(self)->value) return 0;
        return of(self).visit([&](const Reference& reference) {
            Py_VISIT(reference.get());
            return 0;
        });
    }
    static int clear(PyObject* self) {
        if (T* value = reinterpret_cast<Object*>(self)->value) value->clear();
        return 0;
    }
    static void dealloc(PyObject* self) {
        PyTypeObject* type = Py_TYPE(self);
        PyObject_GC_UnTrack(self);
        delete reinterpret_cast<Object*>(self)->value;
        PyObject_GC_Del(self);
        Py_DECREF(type);
    }
};

// The methods of a plan: True, or False if it no longer describes the parameters. Each takes the
// parameters, what `Call` reads, and what follows here.

struct Forward {
    template <class T>
    static PyObject* run(const Plan&, Call<T>& call, Arguments& in) {
        call.read_norms(in);
        return call.run([&] { kernels->forward(call.spine); });
    }
};

struct Backward {
    template <class T>
    static PyObject* run(const Plan& plan, Call<T>& call, Arguments& in) {
        call.read_gradients(plan, in);
        return call.run([&] { kernels->backward(call.spine); });
    }
};

struct ForwardRegularized {
    template <class T>
    static PyObject* run(const Plan&, Call<T>& call, Arguments& in) {
        call.read_regularization(in);
        return call.run([&] { kernels->forward(call.spine, call.regularization); });
    }
};

struct BackwardRegularized {
    template <class T>
    static PyObject* run(const Plan& plan, Call<T>& call, Arguments& in) {
        call.read_gradients(plan, in);
        call.read_regularization(in);
        return call.run([&] { kernels->backward(call.spine, call.regularization); });
    }
};

template <class Method>
PyObject* plan_method(PyObject* self, PyObject* const* items, Py_ssize_t count) {
    const Plan& plan = Object<Plan>::of(self);
    Arguments in(items, count);
    if (!plan.still(in.object())) {
        if (PyErr_Occurred()) return nullptr;
        Py_RETURN_FALSE;
    }
    const auto as = [&](auto number) {
        Call<decltype(number)> call(plan, in);
        return Method::run(plan, call, in);
    };
    return plan.is_double ? as(double()) : as(float());
}

std::vector<index> numbers(PyObject* tuple) {
    std::vector<index> values(PyTuple_Size(tuple));
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = PyLong_AsSsize_t(PyTuple_GetItem(tuple, static_cast<Py_ssize_t>(i)));
    }
    return values;
}

// Plan(parameters, double, features, width, splits, outputs, slope,
//      weights, strides, columns, biases, output, out_stride, offsets)
//
// Weights, biases and output are numbers of places, as in Layout. Place i begins `offsets[i]`
// elements behind the start of the only parameter; without offsets it is parameter i.
PyObject* plan_new(PyTypeObject* type, PyObject* arguments, PyObject*) {
    PyObject *tensors, *weights, *strides, *columns, *biases, *output, *offsets;
    Plan plan;
    int is_double;
    if (!PyArg_ParseTuple(arguments, "O!pnnnndO!O!O!O!O!nO!", &PyList_Type, &tensors, &is_double,
                          &plan.features, &plan.width, &plan.splits, &plan.outputs, &plan.slope,
                          &PyTuple_Type, &weights, &PyTuple_Type, &strides, &PyTuple_Type, &columns,
                          &PyTuple_Type, &biases, &PyTuple_Type, &output, &plan.out_stride,
                          &PyTuple_Type, &offsets)) {
        return nullptr;
    }
    plan.is_double = is_double;
    plan.weight = numbers(weights);
    plan.stride = numbers(strides);
    plan.columns = numbers(columns);
    plan.bias = numbers(biases);
    plan.layers = static_cast<index>(plan.weight.size());
    const std::vector<index> last = numbers(output);
    if (!last.empty()) plan.out_weight = last[0];
    if (last.size() > 1) plan.out_bias = last[1];
    for (const index offset : numbers(offsets)) plan.places.push_back({0, offset});
    for (index i = 0; PyTuple_Size(offsets) == 0 && i < PyList_Size(tensors); ++i) {
        plan.places.push_back({i, 0});
    }
    for (Py_ssize_t i = 0; i < PyList_Size(tensors) && !PyErr_Occurred(); ++i) {
        plan.parameters.emplace_back(PyList_GetItem(tensors, i));
    }
    if (PyErr_Occurred()) return nullptr;
    return Object<Plan>::make(type, std::move(plan));
}

// What a call found in a tree of modules, as entries of dictionaries. As long as `holds()`, another
// call would find the same, and need not look.
struct Watch {
    struct Entry {
        Reference dictionary, key, value;  // no value: the key was absent
    };
    std::vector<Entry> entries;
    std::vector<Reference> empty;  // dictionaries without entries

    bool holds() const {
        if (entries.empty()) return false;  // cleared by the garbage collector
        for (const Entry& entry : entries) {
            PyObject* const now = PyDict_GetItemWithError(entry.dictionary.get(), entry.key.get());
            if (now != entry.value.get()) return false;
        }
        for (const Reference& dictionary : empty) {
            if (PyDict_Size(dictionary.get()) != 0) return false;
        }
        return true;
    }
    template <class See>
    int visit(See see) const {
        for (const Entry& entry : entries) {
            if (int stop = see(entry.dictionary)) return stop;
            if (int stop = see(entry.value)) return stop;
        }
        for (const Reference& dictionary : empty) {
            if (int stop = see(dictionary)) return stop;
        }
        return 0;
    }
    void clear() { entries.clear(), empty.clear(); }
};

// Watch([(dictionary, key, value), ...], [dictionary, ...]); an Ellipsis for a key that is absent.
PyObject* watch_new(PyTypeObject* type, PyObject* arguments, PyObject*) {
    PyObject *entries, *empty;
    if (!PyArg_ParseTuple(arguments, "O!O!", &PyList_Type, &entries, &PyList_Type, &empty)) {
        return nullptr;
    }
    Watch watch;
    for (Py_ssize_t i = 0; i < PyList_Size(entries); ++i) {
        PyObject *dictionary, *key, *value;
        if (!PyArg_ParseTuple(PyList_GetItem(entries, i), "O!OO", &PyDict_Type, &dictionary, &key,
                              &value)) {
            return nullptr;
        }
        watch.entries.push_back({Reference::to(dictionary), Reference::to(key),
                                 value == Py_Ellipsis ? Reference() : Reference::to(value)});
    }
    for (Py_ssize_t i = 0; i < PyList_Size(empty); ++i) {
        PyObject* const dictionary = PyList_GetItem(empty, i);
        if (!PyDict_Check(dictionary)) {
            PyErr_SetString(PyExc_TypeError, "expected dictionaries");
            return nullptr;
        }
        watch.empty.push_back(Reference::to(dictionary));
    }
    return Object<Watch>::make(type, std::move(watch));
}

PyObject* watch_holds(PyObject* self, PyObject*) {
    const bool holds = Object<Watch>::of(self).holds();
    return PyErr_Occurred() ? nullptr : PyBool_FromLong(holds);
}

PyObject* instruction_set(PyObject*, PyObject*) {
    return PyUnicode_FromString(kernels->name);
}

PyObject* exercise_tile(PyObject*, PyObject* repeats) {
    const index count = PyLong_AsSsize_t(repeats);
    if (PyErr_Occurred()) return nullptr;
    return PyFloat_FromDouble(kernels->exercise_tile(count));
}

// warp(source, bytes, shape, target, threads, maps): `shape` is (images, channels, height, width),
// a map is (address of matrices, address of boxes or 0, projective, nearest).
PyObject* warp(PyObject*, PyObject* arguments) {
    Warp call;
    PyObject *source, *target, *maps;
    int bytes;
    if (!PyArg_ParseTuple(arguments, "O!p(nnnn)O!iO!", &PyLong_Type, &source, &bytes, &call.images,
                          &call.channels, &call.height, &call.width, &PyLong_Type, &target,
                          &call.threads, &PyTuple_Type, &maps)) {
        return nullptr;
    }
    call.source = PyLong_AsVoidPtr(source);
    call.target = PyLong_AsVoidPtr(target);
    call.bytes = bytes;
    std::vector<Map> chain;
    for (Py_ssize_t i = 0; i < PyTuple_Size(maps); ++i) {
        PyObject *matrix, *box;
        int projective, nearest;
        if (!PyArg_ParseTuple(PyTuple_GetItem(maps, i), "O!O!pp", &PyLong_Type, &matrix,
                              &PyLong_Type, &box, &projective, &nearest)) {
            return nullptr;
        }
        chain.push_back({static_cast<const float*>(PyLong_AsVoidPtr(matrix)),
                         static_cast<const float*>(PyLong_AsVoidPtr(box)), projective != 0,
                         nearest != 0});
    }
    if (chain.empty()) {
        PyErr_SetString(PyExc_ValueError, "warp needs at least one map");
        return nullptr;
    }
    call.map = chain.data();
    call.maps = static_cast<index>(chain.size());
    bool out_of_memory = false;
    Py_BEGIN_ALLOW_THREADS
    try {
        kernels->warp(call);
    } catch (const std::bad_alloc&) {
        out_of_memory = true;
    }
    Py_END_ALLOW_THREADS
    if (out_of_memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

// The numbers of a tuple of integers or floats, one by one.
class Items {
public:
    explicit Items(PyObject* tuple) : tuple_(tuple) {}
    index size() const { return static_cast<index>(PyTuple_Size(tuple_)); }
    PyObject* object() {
        PyObject* const item = PyTuple_GetItem(tuple_, next_);
        if (item) ++next_;
        return item ? item : Py_None;  // the error is set
    }
    index number() { return PyLong_AsSsize_t(object()); }
    double real() { return PyFloat_AsDouble(object()); }
    template <class P>
    P* address() {
        return static_cast<P*>(PyLong_AsVoidPtr(object()));
    }

private:
    PyObject* tuple_;
    Py_ssize_t next_ = 0;
};

template <class T>
PyObject* train_as(Items net, Items layers, Items data, Items sizes, Items vectors, Items stretches,
                   Items rule) {
    Training<T> t{};
    t.features = net.number(), t.width = net.number(), t.layers = net.number();
    t.splits = net.number(), t.outputs = net.number(), t.unchained = net.number() != 0;
    t.slope = static_cast<T>(net.real());
    t.output = {net.number(), net.number(), net.number(), 0};
    t.keep = net.real(), t.keep_output = net.real();
    for (index l = 0; l < t.layers; ++l) {
        t.layer.push_back({layers.number(), layers.number(), layers.number(), layers.number()});
    }
    t.x = data.address<const T>(), t.x_stride = data.number();
    t.classes = data.address<const std::int64_t>(), t.values = data.address<const T>();
    t.row_weights = data.address<const T>(), t.order = data.address<const std::int64_t>();
    for (index i = 0; i < sizes.size(); ++i) t.sizes.push_back(sizes.number());
    t.count = vectors.number(), t.parameters = vectors.address<T>();
    t.gradient = vectors.address<T>(), t.momentum = vectors.address<T>();
    t.square = vectors.address<T>();
    for (index i = 0; i < stretches.size(); i += 3) {
        t.stretches.push_back({stretches.number(), stretches.number(), stretches.number() != 0});
    }
    t.rule = static_cast<Rule>(rule.number());
    t.rates = rule.address<const double>(), t.losses = rule.address<double>();
    t.weight_decay = rule.real(), t.beta1 = rule.real(), t.beta2 = rule.real();
    t.epsilon = rule.real(), t.momentum_factor = rule.real(), t.clip_norm = rule.real();
    t.steps_before = rule.number();
    t.seed = PyLong_AsUnsignedLongLongMask(rule.object());
    t.first = rule.number(), t.threads = static_cast<int>(rule.number());
    if (PyErr_Occurred()) return nullptr;
    index steps = 0;
    bool out_of_memory = false;
    Py_BEGIN_ALLOW_THREADS
    try {
        steps = kernels->train(t);
    } catch (const std::bad_alloc&) {
        out_of_memory = true;
    }
    Py_END_ALLOW_THREADS
    if (out_of_memory) return PyErr_NoMemory();
    return Py_BuildValue("nL", steps, static_cast<long long>(t.correct));
}

// train(double, net, layers, data, sizes, vectors, stretches, rule): tuples of what `train_as`
// reads, in its order. Returns steps made and right answers.
PyObject* train(PyObject*, PyObject* arguments) {
    PyObject* part[7];
    int is_double;
    if (!PyArg_ParseTuple(arguments, "pO!O!O!O!O!O!O!", &is_double, &PyTuple_Type, &part[0],
                          &PyTuple_Type, &part[1], &PyTuple_Type, &part[2], &PyTuple_Type, &part[3],
                          &PyTuple_Type, &part[4], &PyTuple_Type, &part[5], &PyTuple_Type,
                          &part[6])) {
        return nullptr;
    }
    const auto as = [&](auto number) {
        return train_as<decltype(number)>(Items(part[0]), Items(part[1]), Items(part[2]),
                                          Items(part[3]), Items(part[4]), Items(part[5]),
                                          Items(part[6]));
    };
    return is_double ? as(double()) : as(float());
}

// draw(seed, keep, address of words, number of words)
PyObject* draw(PyObject*, PyObject* const* items, Py_ssize_t count) {
    Arguments in(items, count);
    const std::uint64_t seed = PyLong_AsUnsignedLongLongMask(in.object());
    const double keep = in.real();
    std::uint32_t* const words = in.address<std::uint32_t>();
    const index number = in.number();
    if (PyErr_Occurred()) return nullptr;
    Py_BEGIN_ALLOW_THREADS
    kernels->draw(seed, keep, words, number);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyObject* check(PyObject*, PyObject*) {
    return PyUnicode_FromString(kernels->check().c_str());
}

// Choose a build by name, for tests; false if this processor cannot run it.
PyObject* select(PyObject*, PyObject* name) {
    const Kernels* const available[] = {
        best_kernels(),
#if defined(SPINAL_X86)
        best_kernels() == &x86_64_v4::kernels ? &x86_64_v3::kernels : best_kernels(),
#endif
        &baseline::kernels,
    };
    for (const Kernels* candidate : available) {
        if (PyUnicode_CompareWithASCIIString(name, candidate->name) == 0) {
            kernels = candidate;
            Py_RETURN_TRUE;
        }
    }
    Py_RETURN_FALSE;
}

PyCFunction fast(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef plan_methods[] = {
    {"forward", fast(plan_method<Forward>), METH_FASTCALL, nullptr},
    {"backward", fast(plan_method<Backward>), METH_FASTCALL, nullptr},
    {"forward_regularized", fast(plan_method<ForwardRegularized>), METH_FASTCALL, nullptr},
    {"backward_regularized", fast(plan_method<BackwardRegularized>), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyMethodDef watch_methods[] = {
    {"holds", watch_holds, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

template <class T>
PyObject* make_type(const char* name, newfunc create, PyMethodDef* methods) {
    PyType_Slot slots[] = {
        {Py_tp_new, reinterpret_cast<void*>(create)},
        {Py_tp_dealloc, reinterpret_cast<void*>(Object<T>::dealloc)},
        {Py_tp_traverse, reinterpret_cast<void*>(Object<T>::traverse)},
        {Py_tp_clear, reinterpret_cast<void*>(Object<T>::clear)},
        {Py_tp_methods, methods},
        {0, nullptr},
    };
    PyType_Spec spec = {name, sizeof(Object<T>), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
    return PyType_FromSpec(&spec);
}

PyMethodDef methods[] = {
    {"instruction_set", instruction_set, METH_NOARGS, nullptr},
    {"exercise_tile", exercise_tile, METH_O, nullptr},
    {"check", check, METH_NOARGS, nullptr},
    {"select", select, METH_O, nullptr},
    {"draw", fast(draw), METH_FASTCALL, nullptr},
    {"warp", warp, METH_VARARGS, nullptr},
    {"train", train, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", nullptr, 0, methods, nullptr, nullptr, nullptr, nullptr,
};

}  // namespace
}  // namespace spinalnet

PyMODINIT_FUNC PyInit__native() {
    using namespace spinalnet;
    names = new Names;
    PyObject* module = PyModule_Create(&definition);
    PyObject* plan = make_type<Plan>("spinalnet.kernels._native.Plan", plan_new, plan_methods);
    PyObject* watch =
        make_type<Watch>("spinalnet.kernels._native.Watch", watch_new, watch_methods);
    if (!module || !plan || !watch || PyModule_AddObject(module, "Plan", plan) < 0 ||
        PyModule_AddObject(module, "Watch", watch) < 0 ||
        PyModule_AddStringConstant(module, "SOURCES", SPINALNET_SOURCES) < 0) {
        return nullptr;
    }
    return module;
}
