package rules

import "reflect"

// Settings is what can be set of the rules; [Defaults] has the values that
// docs/detection.md explains. Counts are of rows: reports of one rank.
type Settings struct {
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
	}
}

// maxCount bounds windows and other counts of rows, and so a run's memory.
const maxCount = 4096

// Check reports every setting that is not positive, or too large.
func (s Settings) Check(report func(key, format string, args ...any)) {
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
