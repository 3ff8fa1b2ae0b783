package balance

import "github.com/vigil-ml/vigil/internal/plug"

// Methods is the catalogue of methods. A new one is one file and one line here.
func Methods() plug.Catalog[Method, Deps] {
	return plug.Catalog[Method, Deps]{
		plug.Of("equal", EqualConfig{}, NewEqual),
		plug.Of("static", StaticConfig{}, NewStatic),
		plug.Of("uncertainty", DefaultUncertainty(), NewUncertainty),
		plug.Of("gradnorm", DefaultGradNorm(), NewGradNorm),
		plug.Of("dwa", DefaultAverage(), NewAverage),
		plug.Of("random", RandomConfig{}, NewRandom),
		plug.Of("geometric", GeometricConfig{}, NewGeometric),
		plug.Of("famo", DefaultFAMO(), NewFAMO),
		plug.Of("adaptive", DefaultAdaptive(), NewAdaptive),
		plug.Of("pcgrad", PCGradConfig{}, NewPCGrad),
		plug.Of("cagrad", DefaultCAGrad(), NewCAGrad),
		plug.Of("mgda", MGDAConfig{}, NewMGDA),
		plug.Of("imtl", IMTLConfig{}, NewIMTL),
		plug.Of("nash", NashConfig{}, NewNash),
	}
}
