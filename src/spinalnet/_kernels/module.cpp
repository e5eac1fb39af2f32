// The Python door: addresses and numbers in, nothing kept. Shapes, dtypes and lifetimes are checked
// by the only caller, ops.py; no torch header is needed, so one build serves every torch version,
// and the limited API makes it serve every Python version from 3.11 on.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <new>
#include <vector>

#include "spine.h"

namespace spinalnet {

#if defined(SPINAL_X86)
namespace x86_64_v4 { extern const Kernels kernels; }
namespace x86_64_v3 { extern const Kernels kernels; }
#endif
namespace baseline { extern const Kernels kernels; }

namespace {

// The best build this processor can run, unless `at_most` names a lesser one.
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

    index number() {
        PyObject* item = next();
        return item ? PyLong_AsSsize_t(item) : 0;
    }
    double real() {
        PyObject* item = next();
        return item ? PyFloat_AsDouble(item) : 0.0;
    }
    template <class P>
    P* address() {
        PyObject* item = next();
        return item ? as_address<P>(item) : nullptr;
    }
    // A list of exactly `count` items, or None (null).
    PyObject* list(index count) {
        PyObject* item = next();
        if (!item || item == Py_None) return nullptr;
        if (!PyList_Check(item) || PyList_Size(item) != count) {
            PyErr_Format(PyExc_TypeError, "expected a list of %zd items or None", count);
            return nullptr;
        }
        return item;
    }
    template <class P>
    static P* as_address(PyObject* item) {
        return static_cast<P*>(PyLong_AsVoidPtr(item));
    }

private:
    PyObject* next() {
        if (item_ == end_) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "too few arguments");
            return nullptr;
        }
        return *item_++;
    }
    PyObject* const* item_;
    PyObject* const* end_;
};

// A Spine and the arrays that it points to.
template <class T>
struct Call {
    Spine<T> spine{};
    std::vector<Layer<T>> layers;
    std::vector<Norm<T>> norms;

    // The arguments forward and backward have in common.
    void read(Arguments& in) {
        Spine<T>& s = spine;
        s.rows = in.number();
        s.features = in.number();
        s.width = in.number();
        s.layers = in.number();
        s.splits = in.number();
        s.outputs = in.number();
        s.slope = static_cast<T>(in.real());
        s.threads = static_cast<int>(in.number());
        s.x = in.address<const T>();
        s.x_stride = in.number();
        if (PyErr_Occurred()) return;
        layers.resize(s.layers);
        s.layer = layers.data();

        PyObject* const weights = in.list(s.layers);
        PyObject* const strides = in.list(s.layers);
        PyObject* const columns = in.list(s.layers);
        PyObject* const biases = in.list(s.layers);
        if (PyErr_Occurred()) return;
        const index shorter = s.features / s.splits, longer = s.features % s.splits;
        for (index l = 0; l < s.layers; ++l) {
            Layer<T>& layer = layers[l];
            const index split = l % s.splits;
            layer.size = shorter + (split < longer);
            layer.offset = split * shorter + (split < longer ? split : longer);
            layer.weight = Arguments::as_address<const T>(PyList_GetItem(weights, l));
            layer.stride = PyLong_AsSsize_t(PyList_GetItem(strides, l));
            layer.columns = PyLong_AsSsize_t(PyList_GetItem(columns, l));
            if (biases) layer.bias = Arguments::as_address<const T>(PyList_GetItem(biases, l));
        }
        s.out_weight = in.address<const T>();
        s.out_stride = in.number();
        s.out_bias = in.address<const T>();
        s.hidden = in.address<T>();
        s.logits = in.address<T>();
    }

    // Five addresses and numbers per layer: mean, variance, gain, bias (0: none), epsilon.
    void read_norms(Arguments& in) {
        PyObject* const values = in.list(5 * spine.layers);
        if (!values) return;
        norms.resize(spine.layers);
        for (index l = 0; l < spine.layers; ++l) {
            const auto at = [&](int i) {
                return Arguments::as_address<const T>(PyList_GetItem(values, 5 * l + i));
            };
            norms[l] = {at(0), at(1), at(2), at(3),
                        PyFloat_AsDouble(PyList_GetItem(values, 5 * l + 4))};
            layers[l].norm = &norms[l];
        }
    }

    void read_gradients(Arguments& in) {
        Spine<T>& s = spine;
        s.hidden_grad = in.address<const T>();
        s.hidden_grad_stride = in.number();
        s.logits_grad = in.address<const T>();
        s.logits_grad_stride = in.number();
        s.x_grad = in.address<T>();
        PyObject* const weights = in.list(s.layers);
        PyObject* const biases = in.list(s.layers);
        s.out_weight_grad = in.address<T>();
        s.out_bias_grad = in.address<T>();
        s.wants_weights = weights != nullptr;
        for (index l = 0; weights && l < s.layers; ++l) {
            Layer<T>& layer = layers[l];
            layer.weight_grad = Arguments::as_address<T>(PyList_GetItem(weights, l));
            if (biases) layer.bias_grad = Arguments::as_address<T>(PyList_GetItem(biases, l));
            for (index k = 0; k < l; ++k) {
                if (layers[k].weight_grad == layer.weight_grad ||
                    (biases && layers[k].bias_grad == layer.bias_grad)) {
                    layers[k].shared = layer.shared = true;
                }
            }
        }
    }

    PyObject* run(void (*kernel)(const Spine<T>&)) {
        if (PyErr_Occurred()) return nullptr;
        bool out_of_memory = false;
        Py_BEGIN_ALLOW_THREADS
        try {
            kernel(spine);
        } catch (const std::bad_alloc&) {
            out_of_memory = true;
        }
        Py_END_ALLOW_THREADS
        if (out_of_memory) return PyErr_NoMemory();
        Py_RETURN_NONE;
    }
};

const Kernels* kernels = best_kernels();

template <class T>
PyObject* forward(Arguments in, void (*kernel)(const Spine<T>&)) {
    Call<T> call;
    call.read(in);
    if (!PyErr_Occurred()) call.read_norms(in);
    return call.run(kernel);
}

template <class T>
PyObject* backward(Arguments in, void (*kernel)(const Spine<T>&)) {
    Call<T> call;
    call.read(in);
    if (!PyErr_Occurred()) call.read_gradients(in);
    return call.run(kernel);
}

PyObject* forward_float(PyObject*, PyObject* const* items, Py_ssize_t count) {
    return forward<float>(Arguments(items, count), kernels->forward_float);
}
PyObject* forward_double(PyObject*, PyObject* const* items, Py_ssize_t count) {
    return forward<double>(Arguments(items, count), kernels->forward_double);
}
PyObject* backward_float(PyObject*, PyObject* const* items, Py_ssize_t count) {
    return backward<float>(Arguments(items, count), kernels->backward_float);
}
PyObject* backward_double(PyObject*, PyObject* const* items, Py_ssize_t count) {
    return backward<double>(Arguments(items, count), kernels->backward_double);
}

PyObject* instruction_set(PyObject*, PyObject*) {
    return PyUnicode_FromString(kernels->name);
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

PyMethodDef methods[] = {
    {"forward_float", fast(forward_float), METH_FASTCALL, nullptr},
    {"forward_double", fast(forward_double), METH_FASTCALL, nullptr},
    {"backward_float", fast(backward_float), METH_FASTCALL, nullptr},
    {"backward_double", fast(backward_double), METH_FASTCALL, nullptr},
    {"instruction_set", instruction_set, METH_NOARGS, nullptr},
    {"select", select, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", nullptr, 0, methods, nullptr, nullptr, nullptr, nullptr,
};

}  // namespace
}  // namespace spinalnet

PyMODINIT_FUNC PyInit__native() { return PyModule_Create(&spinalnet::definition); }
