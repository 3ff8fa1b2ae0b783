package rules

import "reflect"

// Settings is what can be set of the rules; [Defaults] has the values that
// docs/detection.md explains. Counts are of rows: reports of one rank.
type Settings struct {
	// Modes says of a rule that it is on, off or shadow; one that is not named is
	// on.
	Modes Modes `yaml:"modes,omitempty"`

	Divergence DivergenceSettings `yaml:"divergence"`
	Spike      SpikeSettings      `yaml:"spike"`
	Explosion  ExplosionSettings  `yaml:"explosion"`
	Vanishing  VanishingSettings  `yaml:"vanishing"`
	Plateau    PlateauSettings    `yaml:"plateau"`
	Leak       LeakSettings       `yaml:"leak"`
	Starvation StarvationSettings `yaml:"starvation"`
	Straggler  StragglerSettings  `yaml:"straggler"`
	Hang       HangSettings       `yaml:"hang"`
	Nodes      NodeSettings       `yaml:"nodes"`

	Overfitting      OverfittingSettings      `yaml:"overfitting"`
	DeadUnits        UnitSettings             `yaml:"dead_units"`
	Saturated        UnitSettings             `yaml:"saturated"`
	UpdateRatio      UpdateRatioSettings      `yaml:"update_ratio"`
	WeightCollapse   WeightCollapseSettings   `yaml:"weight_collapse"`
	GradientConflict GradientConflictSettings `yaml:"gradient_conflict"`
	Slowdown         SlowdownSettings         `yaml:"slowdown"`
	Fragmentation    FragmentationSettings    `yaml:"fragmentation"`
}

// Defaults gives the settings that are used when nobody says otherwise.
func Defaults() Settings {
	return Settings{
		Divergence: defaultDivergence(),
		Spike:      defaultSpike(),
		Explosion:  defaultExplosion(),
		Vanishing:  defaultVanishing(),
		Plateau:    defaultPlateau(),
		Leak:       defaultLeak(),
		Starvation: defaultStarvation(),
		Straggler:  defaultStraggler(),
		Hang:       defaultHang(),
		Nodes:      defaultNodes(),

		Overfitting:      defaultOverfitting(),
		DeadUnits:        defaultDeadUnits(),
		Saturated:        defaultSaturated(),
		UpdateRatio:      defaultUpdateRatio(),
		WeightCollapse:   defaultWeightCollapse(),
		GradientConflict: defaultGradientConflict(),
		Slowdown:         defaultSlowdown(),
		Fragmentation:    defaultFragmentation(),
	}
}

// maxCount bounds windows and other counts of rows, and so a run's memory.
const maxCount = 4096

// Check reports every setting that is not positive, or too large, and modes of
// rules that there are not.
func (s Settings) Check(report func(key, format string, args ...any)) {
	s.Modes.check(report)
	checkNumbers(reflect.ValueOf(s), "", report)
}

// checkNumbers goes through the settings by their names in files, so that none
// that is added can be forgotten here.
func checkNumbers(v reflect.Value, prefix string, report func(key, format string, args ...any)) {
	for i := range v.NumField() {
		field, key := v.Field(i), prefix+v.Type().Field(i).Tag.Get("yaml")
		switch field.Kind() {
		case reflect.Struct:
			checkNumbers(field, key+".", report)
		case reflect.Int:
			if n := field.Int(); n < 1 || n > maxCount {
				report(key, "is %d; want 1 to %d", n, maxCount)
			}
		case reflect.Float64:
			if x := field.Float(); !finite(x) || x <= 0 {
				report(key, "is %v; want a number above 0", x)
			}
		}
	}
}
