package trainer

import (
	"time"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Measured is a quantity that may not have been measured; its zero value was
// not. Zero is a value, unknown is not zero.
type Measured[T any] struct {
	Value T
	Known bool
}

// Known is a quantity that was measured.
func Known[T any](value T) Measured[T] { return Measured[T]{Value: value, Known: true} }

// StepReport is what one optimizer step measured.
type StepReport struct {
	Step          int64                   // the step that finished, counted from 1
	Loss          Measured[float64]       // total training loss; may be non-finite
	Tasks         []Task                  // loss and weight of each task; Step copies them
	GradientNorm  Measured[float64]       // L2 norm over all parameters
	LearningRate  Measured[float64]       // in force
	Samples       Measured[int64]         // in the global batch
	Tokens        Measured[int64]         // in the global batch
	StepTime      Measured[time.Duration] // the whole step
	DataTime      Measured[time.Duration] // waiting for data
	ComputeTime   Measured[time.Duration] // forward, backward, update
	CommTime      Measured[time.Duration] // collective communication
	ResidentBytes Measured[int64]         // resident memory of the process
	GPUBytes      Measured[int64]         // GPU memory of the process

	GPUReservedBytes    Measured[int64]   // GPU memory that the framework's allocator holds
	DeviceUtilization   Measured[float64] // share of the step in which the device was busy, 0 to 1
	UpdateRatio         Measured[float64] // L2 norm of the update over that of the parameters
	ParameterNorm       Measured[float64] // L2 norm of the parameters after the step; may be non-finite
	NonFiniteParameters Measured[int64]   // parameters that are not finite, after the step
	GradientCosine      Measured[float64] // least cosine between two tasks' gradients, -1 to 1
	Layers              []Layer           // of layers whose units were looked at; Step copies them
}

// Layer is how the units of a layer were in a step.
type Layer struct {
	Name      string
	Dead      Measured[float64] // share that was zero for the whole batch, 0 to 1
	Saturated Measured[float64] // share that was at its bound, 0 to 1
}

// Task is one task of a multi-task step.
type Task struct {
	Name   string
	Loss   Measured[float64] // may be non-finite
	Weight Measured[float64] // of the loss in the total
}

// message gives the report as it goes over the wire.
func (r *StepReport) message() *commonv1.StepReport {
	m := &commonv1.StepReport{
		Step:                 r.Step,
		Loss:                 r.Loss.pointer(),
		GradientNorm:         r.GradientNorm.pointer(),
		LearningRate:         r.LearningRate.pointer(),
		Samples:              r.Samples.pointer(),
		Tokens:               r.Tokens.pointer(),
		StepSeconds:          seconds(r.StepTime),
		DataSeconds:          seconds(r.DataTime),
		ComputeSeconds:       seconds(r.ComputeTime),
		CommunicationSeconds: seconds(r.CommTime),
		ResidentBytes:        r.ResidentBytes.pointer(),
		GpuMemoryBytes:       r.GPUBytes.pointer(),

		GpuMemoryReservedBytes: r.GPUReservedBytes.pointer(),
		DeviceUtilization:      r.DeviceUtilization.pointer(),
		UpdateRatio:            r.UpdateRatio.pointer(),
		ParameterNorm:          r.ParameterNorm.pointer(),
		NonfiniteParameters:    r.NonFiniteParameters.pointer(),
		GradientCosine:         r.GradientCosine.pointer(),
	}
	for _, layer := range r.Layers {
		if layer.Dead.Known {
			put(&m.DeadRatios, layer.Name, layer.Dead.Value, len(r.Layers))
		}
		if layer.Saturated.Known {
			put(&m.SaturatedRatios, layer.Name, layer.Saturated.Value, len(r.Layers))
		}
	}
	for _, task := range r.Tasks {
		if task.Loss.Known {
			put(&m.TaskLosses, task.Name, task.Loss.Value, len(r.Tasks))
		}
		if task.Weight.Known {
			put(&m.TaskWeights, task.Name, task.Weight.Value, len(r.Tasks))
		}
	}
	return m
}

func (m Measured[T]) pointer() *T {
	if !m.Known {
		return nil
	}
	return &m.Value
}

func seconds(d Measured[time.Duration]) *float64 {
	if !d.Known {
		return nil
	}
	s := d.Value.Seconds()
	return &s
}

func put(m *map[string]float64, name string, value float64, size int) {
	if *m == nil {
		*m = make(map[string]float64, size)
	}
	(*m)[name] = value
}
