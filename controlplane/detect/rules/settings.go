package rules

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
	}
}
